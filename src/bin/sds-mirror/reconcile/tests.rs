use super::*;
use crate::cluster::Cluster;
use crate::manifest::Manifest;
use crate::select::Kind;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(60);

fn id(namespace: &str, name: &str) -> Id {
    Id {
        kind: Kind::Secret,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn scope(namespace: &str) -> Scope {
    id(namespace, "").scope()
}

fn wish(uid: &str, folder: Option<&str>) -> Wish {
    Wish {
        uid: uid.into(),
        resource_version: "1".into(),
        folder: folder.map(str::to_owned),
    }
}

fn ours(id: &Id, uid: &str) -> Found {
    Found::Ours(Manifest {
        cluster: Cluster::default(),
        kind: id.kind,
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        uid: uid.into(),
        resource_version: "1".into(),
        written: 0,
        held: false,
    })
}

fn policy() -> Policy {
    Policy {
        guard: Guard {
            percent: 50,
            window: WINDOW,
            is_off: false,
        },
        released: BTreeSet::new(),
        history: History::default(),
    }
}

/// A mirror without a cluster and without a disk.
struct World {
    objects: Objects,
    present: BTreeMap<String, Found>,
    policy: Policy,
    now: Instant,
}

impl World {
    /// Mirrors these namespaces, of which none has been listed. The folders belong to Secrets in namespace `n` with
    /// the same names.
    fn new(namespaces: &[&str], folders: &[&str]) -> Self {
        let scopes = namespaces.iter().map(|namespace| scope(namespace));
        let folder = |name: &&str| ((*name).to_owned(), ours(&id("n", name), "u"));
        Self {
            objects: Objects::new(Chosen::All(scopes.collect())),
            present: folders.iter().map(folder).collect(),
            policy: policy(),
            now: Instant::now(),
        }
    }

    /// Lists Secrets with these names in namespace `n`. Each folder has the name of its Secret.
    fn list(&mut self, names: &[&str]) -> Plan {
        let secrets = names
            .iter()
            .map(|name| (id("n", name), wish("u", Some(name))));
        self.objects.listed(&scope("n"), secrets.collect());
        self.settle()
    }

    fn delete(&mut self, names: &[&str]) {
        for name in names {
            self.objects.deleted(id("n", name), self.now);
        }
    }

    fn add(&mut self, name: &str) {
        self.objects.applied(id("n", name), wish("u2", Some(name)));
    }

    fn plan(&self) -> Plan {
        plan(&self.objects, &self.present, &self.policy, self.now)
    }

    /// Carries out plans until nothing changes. Returns the last one.
    fn settle(&mut self) -> Plan {
        for _ in 0..20 {
            let plan = self.plan();
            let before = self.present.clone();
            self.carry_out(&plan);
            if before == self.present {
                return plan;
            }
        }
        panic!("no end");
    }

    fn carry_out(&mut self, plan: &Plan) {
        for folder in &plan.hold {
            let Some(Found::Ours(manifest)) = self.present.get_mut(folder) else {
                panic!("{folder} is not the mirror's");
            };
            manifest.held = true;
            let id = manifest.id();
            self.policy.record(&self.objects, &id, true, self.now);
        }
        for (id, folder) in &plan.granted {
            let uid = self.objects.wish(id).unwrap().uid.clone();
            self.present.insert(folder.clone(), ours(id, &uid));
        }
        for folder in &plan.remove {
            if let Some(Found::Ours(manifest)) = self.present.remove(folder)
                && !self.policy.released.contains(folder)
            {
                self.policy
                    .record(&self.objects, &manifest.id(), false, self.now);
            }
        }
        self.objects.forget_deletions(&self.present);
        self.policy.released.clear();
    }

    /// Lets time pass, and does what is due.
    fn wait(&mut self, seconds: u64) -> Plan {
        self.now += Duration::from_secs(seconds);
        self.settle()
    }

    fn folders(&self) -> Vec<&str> {
        self.present.keys().map(String::as_str).collect()
    }

    fn held(&self) -> Vec<&str> {
        let held = ours_of(&self.present).filter(|(_, manifest)| manifest.held);
        held.map(|(folder, _)| folder.as_str()).collect()
    }
}

fn ours_of(present: &BTreeMap<String, Found>) -> impl Iterator<Item = (&String, &Manifest)> {
    super::ours(present)
}

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

#[test]
fn nothing_is_removed_before_a_complete_list() {
    let world = World::new(&["n"], &["a", "b"]);
    assert_eq!(world.plan(), Plan::default());
}

#[test]
fn a_folder_whose_secret_is_missing_from_a_list_is_removed() {
    let mut world = World::new(&["n"], &["a", "b", "c"]);
    world.list(&["b", "c"]);
    assert_eq!(world.folders(), ["b", "c"]);
}

#[test]
fn after_an_empty_list_even_a_single_removal_is_held() {
    for folders in [&["a"][..], &["a", "b", "c"]] {
        let mut world = World::new(&["n"], folders);
        world.list(&[]);
        assert_eq!(world.held(), folders);
        world.wait(3600);
        assert_eq!(world.held(), folders);
    }
}

#[test]
fn each_folder_stays_held_until_its_secret_is_back() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&[]);
    for (number, name) in TEN.iter().enumerate() {
        world.wait(3600);
        world.add(name);
        world.settle();
        assert_eq!(world.folders(), TEN, "after {name}");
        assert_eq!(world.held(), TEN[number + 1..], "after {name}");
    }
}

#[test]
fn unrelated_secrets_do_not_end_a_hold() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&[]);
    for number in 0..11 {
        world.wait(3600);
        world.add(&format!("new-{number}"));
        world.settle();
    }
    assert_eq!(world.held(), TEN);
    assert_eq!(world.folders().len(), 21);
}

#[test]
fn a_hold_persists_across_lists_and_restarts() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&[]);
    let mut next = World::new(&["n"], &[]);
    next.present = world.present;
    next.list(&TEN[..6]);
    assert_eq!(next.held(), TEN[6..]);
    assert_eq!(next.folders(), TEN);
}

#[test]
fn only_released_folders_are_removed() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&[]);
    world.policy.released = ["a", "b"].map(str::to_owned).into();
    world.settle();
    assert_eq!(world.folders(), TEN[2..]);
    assert_eq!(world.held(), TEN[2..]);
}

#[test]
fn a_single_deletion_is_done_after_a_pause() {
    let mut world = World::new(&["n"], &["a", "b", "c"]);
    world.list(&["a", "b", "c"]);
    world.delete(&["a"]);
    let plan = world.settle();
    assert_eq!(world.folders().len(), 3);
    assert_eq!(plan.wake, Some(world.now + QUIET));
    world.wait(2);
    assert_eq!(world.folders(), ["b", "c"]);
}

#[test]
fn the_last_folder_is_removed_when_its_secret_is_deleted() {
    let mut world = World::new(&["n"], &["a"]);
    world.list(&["a"]);
    world.delete(&["a"]);
    world.wait(2);
    assert!(world.folders().is_empty());
}

#[test]
fn deleting_all_secrets_together_is_held() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&TEN);
    world.delete(&TEN);
    world.wait(2);
    assert_eq!(world.held(), TEN);
}

#[test]
fn more_than_half_within_the_window_is_held_and_half_is_removed() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&TEN);
    for name in TEN {
        world.delete(&[name]);
        world.wait(2);
    }
    assert_eq!(world.folders(), TEN[5..]);
    assert_eq!(world.held(), TEN[5..]);

    let mut slow = World::new(&["n"], &TEN);
    slow.list(&TEN);
    for name in TEN {
        slow.delete(&[name]);
        slow.wait(61);
    }
    assert!(
        slow.folders().is_empty(),
        "one removal a minute is not a mass removal"
    );
}

#[test]
fn a_secret_that_is_created_again_keeps_its_folder() {
    let mut world = World::new(&["n"], &["a"]);
    world.list(&["a"]);
    world.delete(&["a"]);
    world.add("a");
    let plan = world.wait(60);
    assert_eq!(plan.granted, [(id("n", "a"), "a".to_owned())].into());
    assert_eq!(world.folders(), ["a"]);
}

#[test]
fn with_the_guard_off_every_removal_is_done() {
    let mut world = World::new(&["n"], &TEN);
    world.list(&[]);
    world.policy.guard.is_off = true;
    world.settle();
    assert!(world.folders().is_empty());
}

#[test]
fn foreign_and_unreadable_folders_are_not_changed() {
    let mut world = World::new(&["n"], &["a"]);
    world.present.insert("b".into(), Found::Foreign);
    world
        .present
        .insert("c".into(), Found::Unreadable("no".into()));
    let plan = world.list(&["a", "b", "c"]);
    assert_eq!(plan.granted.len(), 1);
    assert!(matches!(
        plan.conflicts[&id("n", "b")],
        Conflict::Foreign { .. }
    ));
    assert!(matches!(
        plan.conflicts[&id("n", "c")],
        Conflict::Unreadable { .. }
    ));
    world.policy.guard.is_off = true;
    world.list(&[]);
    assert_eq!(world.folders(), ["b", "c"]);
}

#[test]
fn a_clash_lists_all_objects_and_only_the_holder_keeps_the_folder() {
    let mut world = World::new(&["m", "n"], &[]);
    for namespace in ["n", "m"] {
        let secrets = [(id(namespace, "a"), wish("u", Some("a")))];
        world.objects.listed(&scope(namespace), secrets.into());
    }
    let fresh = world.plan();
    assert!(fresh.granted.is_empty());
    let clash = |other: &str| Conflict::Clash {
        folder: "a".into(),
        others: vec![id(other, "a")],
    };
    let both = [(id("n", "a"), clash("m")), (id("m", "a"), clash("n"))];
    assert_eq!(fresh.conflicts, both.into());
    world.present.insert("a".into(), ours(&id("n", "a"), "u"));
    let held = world.plan();
    assert_eq!(held.granted, [(id("n", "a"), "a".to_owned())].into());
    assert_eq!(held.conflicts, [(id("m", "a"), clash("n"))].into());
}

#[test]
fn a_held_or_unmirrored_folder_is_not_given_to_another_object() {
    for namespaces in [&["m", "n"][..], &["m"]] {
        let mut world = World::new(namespaces, &["a"]);
        if namespaces.contains(&"n") {
            world.list(&[]);
        }
        let secrets = [(id("m", "a"), wish("u", Some("a")))];
        world.objects.listed(&scope("m"), secrets.into());
        let plan = world.settle();
        assert!(plan.granted.is_empty() && plan.remove.is_empty());
        assert_eq!(plan.conflicts.len(), 1);
    }
}

#[test]
fn a_secret_that_is_no_longer_a_credential_keeps_its_folder() {
    let mut world = World::new(&["n"], &["a", "b", "c"]);
    world.list(&["a", "b", "c"]);
    world.objects.applied(id("n", "a"), wish("u", None));
    let kept = world.settle();
    assert_eq!(kept.keep, [("a".to_owned(), Keep::NotACredential)].into());
    world.objects.applied(id("n", "a"), wish("another", None));
    world.settle();
    assert_eq!(
        world.folders(),
        ["b", "c"],
        "created again as something else"
    );
}

#[test]
fn changing_the_name_template_moves_folders_and_is_not_a_mass_removal() {
    let mut world = World::new(&["n"], &["a", "b", "c"]);
    let moved = ["a", "b", "c"].map(|name| (id("n", name), wish("u", Some(&format!("n.{name}")))));
    world.objects.listed(&scope("n"), moved.into());
    world.settle();
    assert_eq!(world.folders(), ["n.a", "n.b", "n.c"]);
    assert!(world.held().is_empty());
}

#[test]
fn removals_are_held_when_a_gateway_selects_nothing() {
    let mut world = World::new(&[], &["a", "b", "c"]);
    let choose = |world: &mut World, names: &[&str]| {
        let wanted = names.iter().map(|name| id("n", name)).collect();
        world.objects.choose(Chosen::Only {
            wanted,
            undecided: BTreeSet::new(),
        });
        world.settle()
    };
    world.objects.choose(Chosen::Unknown);
    world.list(&["a", "b", "c", "d"]);
    assert_eq!(world.plan(), Plan::default(), "the Gateway is not known");
    choose(&mut world, &["a", "b", "c"]);
    assert_eq!(world.folders(), ["a", "b", "c"]);
    choose(&mut world, &["a", "b"]);
    assert_eq!(world.folders(), ["a", "b"]);
    choose(&mut world, &[]);
    assert_eq!(world.held(), ["a", "b"]);
    choose(&mut world, &["a", "b", "d"]);
    assert!(world.held().is_empty());
    assert_eq!(world.folders(), ["a", "b", "d"]);
}

const NAMESPACES: [&str; 3] = ["m", "n", "not-mirrored"];

fn any_id() -> impl Strategy<Value = Id> {
    (0..NAMESPACES.len(), 0..TEN.len()).prop_map(|(n, m)| id(NAMESPACES[n], TEN[m]))
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let folder = prop::option::weighted(0.9, 0..TEN.len());
    (0..2usize, folder)
        .prop_map(|(uid, folder): (usize, _)| wish(&uid.to_string(), folder.map(|at| TEN[at])))
}

fn any_present() -> impl Strategy<Value = BTreeMap<String, Found>> {
    let one = prop_oneof![
        1 => Just(Found::Foreign),
        1 => Just(Found::Unreadable("no".into())),
        12 => (any_id(), 0..2usize).prop_map(|(id, uid): (_, usize)| ours(&id, &uid.to_string())),
    ];
    let name = (0..TEN.len()).prop_map(|at| TEN[at].to_owned());
    prop::collection::btree_map(name, one, 0..10)
}

#[derive(Clone, Debug)]
enum Step {
    Listed(usize, BTreeMap<String, Wish>),
    Applied(Id, Wish),
    Deleted(Id),
    Released(usize),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let names = (0..TEN.len()).prop_map(|at| TEN[at].to_owned());
    prop_oneof![
        2 => (0..2usize, prop::collection::btree_map(names, any_wish(), 0..8))
            .prop_map(|(namespace, secrets)| Step::Listed(namespace, secrets)),
        2 => (any_id(), any_wish()).prop_map(|(id, wish)| Step::Applied(id, wish)),
        4 => any_id().prop_map(Step::Deleted),
        1 => (0..TEN.len()).prop_map(Step::Released),
        4 => (0..70u64).prop_map(Step::Wait),
    ]
}

/// Checks that each removal of a plan has a valid reason.
fn check(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let written: BTreeSet<&String> = plan.granted.values().collect();
    prop_assert_eq!(written.len(), plan.granted.len(), "one folder, two writers");
    for (id, wish) in world.objects.wishes() {
        let has = plan.granted.get(id);
        let is_told = plan.conflicts.contains_key(id);
        prop_assert_eq!(wish.folder.is_some(), has.is_some() != is_told);
        prop_assert!(has.is_none() || has == wish.folder.as_ref());
    }
    let mut going: BTreeMap<Scope, usize> = BTreeMap::new();
    for folder in written.iter().copied().chain(&plan.remove) {
        let is_ours = !matches!(
            world.present.get(folder),
            Some(Found::Foreign | Found::Unreadable(_))
        );
        prop_assert!(is_ours, "{} is not the mirror's", folder);
    }
    for folder in &plan.remove {
        let Some(Found::Ours(manifest)) = world.present.get(folder) else {
            return Err(TestCaseError::fail("removed, and not there"));
        };
        prop_assert!(!written.contains(folder), "written and removed");
        let id = manifest.id();
        if world.policy.released.contains(folder) || plan.granted.contains_key(&id) {
            continue;
        }
        prop_assert!(!manifest.held, "{} was held", folder);
        prop_assert!(
            world.objects.listed.contains(&id.scope())
                || world.objects.deleted.contains_key(&id)
                // It was created again, but is not a credential.
                || world.objects.objects.contains_key(&id)
        );
        prop_assert!(NAMESPACES[..2].contains(&id.namespace.as_str()));
        *going.entry(id.scope()).or_default() += 1;
    }
    for (scope, going) in going {
        let (_, removed) = world
            .policy
            .history
            .count(&Some(scope.clone()), WINDOW, world.now);
        let owned = ours_of(&world.present).filter(|(_, manifest)| manifest.id().scope() == scope);
        let base = owned.count() + removed;
        let all = going + removed;
        prop_assert!(
            all == 1 || 2 * all <= base,
            "{} of {} within the window",
            all,
            base
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn removals_are_always_limited_and_holds_persist(
        present in any_present(),
        steps in prop::collection::vec(any_step(), 0..40),
    ) {
        let mut world = World::new(&NAMESPACES[..2], &[]);
        world.present = present;
        for step in steps {
            match step {
                Step::Listed(at, secrets) => {
                    let namespace = NAMESPACES[at];
                    let secrets = secrets.into_iter().map(|(name, wish)| (id(namespace, &name), wish));
                    world.objects.listed(&scope(namespace), secrets.collect());
                }
                Step::Applied(id, wish) => world.objects.applied(id, wish),
                Step::Deleted(id) => world.objects.deleted(id, world.now),
                Step::Released(at) => {
                    world.policy.released.insert(TEN[at].to_owned());
                }
                Step::Wait(seconds) => world.now += Duration::from_secs(seconds),
            }
            let plan = world.plan();
            check(&world, &plan)?;
            world.carry_out(&plan);
        }
    }

    #[test]
    fn after_a_plan_is_carried_out_nothing_is_left_to_do(
        present in any_present(),
        steps in prop::collection::vec(any_step(), 0..12),
    ) {
        let mut world = World::new(&NAMESPACES[..2], &[]);
        world.present = present;
        for step in steps {
            match step {
                Step::Applied(id, wish) => world.objects.applied(id, wish),
                Step::Deleted(id) => world.objects.deleted(id, world.now),
                _ => {}
            }
        }
        world.wait(60);
        let last = world.settle();
        prop_assert!(last.remove.is_empty() && last.hold.is_empty());
        prop_assert_eq!(last.wake, None);
    }
}
