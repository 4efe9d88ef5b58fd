use super::*;
use proptest::prelude::*;

fn id(namespace: &str, name: &str) -> Id {
    Id {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn wish(uid: &str, folder: Option<&str>) -> Wish {
    Wish {
        uid: uid.into(),
        folder: folder.map(str::to_owned),
    }
}

fn ours(namespace: &str, name: &str, uid: &str) -> Present {
    Present::Ours {
        id: id(namespace, name),
        uid: uid.into(),
    }
}

fn policy(namespaces: &[&str]) -> Policy {
    Policy {
        namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
        allow_mass_removal: false,
    }
}

/// A namespace `n` that was listed with Secrets of these names, each of which wants its own name.
fn listed(names: &[&str]) -> Said {
    let mut said = Said::default();
    let secrets = names
        .iter()
        .map(|name| (id("n", name), wish("u", Some(name))));
    said.listed("n", secrets.collect());
    said
}

/// Folders of Secrets of the same names in namespace `n`.
fn present(names: &[&str]) -> BTreeMap<String, Present> {
    let folders = names
        .iter()
        .map(|name| ((*name).to_owned(), ours("n", name, "u")));
    folders.collect()
}

#[test]
fn nothing_is_removed_before_a_whole_list() {
    let plan = plan(&Said::default(), &present(&["a", "b"]), &policy(&["n"]));
    assert_eq!(plan, Plan::default());
}

#[test]
fn one_that_is_missing_from_a_list_goes() {
    for (there, left) in [
        (&["a"][..], &[][..]),
        (&["a", "b"], &["b"]),
        (&["a", "b", "c"], &["b", "c"]),
    ] {
        let plan = plan(&listed(left), &present(there), &policy(&["n"]));
        assert_eq!(plan.remove, ["a"], "{there:?} -> {left:?}");
        assert!(plan.keep.is_empty());
    }
}

#[test]
fn more_than_half_at_once_is_held_back_unless_allowed() {
    let there = present(&["a", "b", "c"]);
    for left in [&[][..], &["c"]] {
        let mut policy = policy(&["n"]);
        let held = plan(&listed(left), &there, &policy);
        assert!(held.remove.is_empty());
        assert_eq!(held.keep.len(), 3 - left.len());
        assert!(held.keep.values().all(|why| *why == Keep::MassRemoval));
        policy.allow_mass_removal = true;
        let allowed = plan(&listed(left), &there, &policy);
        assert_eq!(allowed.remove.len(), 3 - left.len());
    }
    let half = plan(
        &listed(&["a", "b"]),
        &present(&["a", "b", "c", "d"]),
        &policy(&["n"]),
    );
    assert_eq!(half.remove, ["c", "d"]);
}

#[test]
fn what_an_event_said_is_deleted_goes_whatever_the_number() {
    let mut said = listed(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        said.deleted(id("n", name));
    }
    let plan = plan(&said, &present(&["a", "b", "c"]), &policy(&["n"]));
    assert_eq!(plan.remove, ["a", "b", "c"]);
}

#[test]
fn a_deleted_one_that_is_made_again_stays() {
    let mut said = listed(&["a"]);
    said.deleted(id("n", "a"));
    said.applied(id("n", "a"), wish("u2", Some("a")));
    let plan = plan(&said, &present(&["a"]), &policy(&["n"]));
    assert_eq!(plan.granted, [(id("n", "a"), "a".to_owned())].into());
    assert!(plan.remove.is_empty());
}

#[test]
fn a_folder_made_by_hand_is_left_alone() {
    let mut there = present(&["a"]);
    there.insert("b".into(), Present::Foreign);
    there.insert("c".into(), Present::Foreign);
    let plan = plan(&listed(&["a", "b"]), &there, &policy(&["n"]));
    let folder = "b".to_owned();
    assert_eq!(
        plan.conflicts,
        [(id("n", "b"), Conflict::Foreign { folder })].into()
    );
    assert_eq!(plan.granted.len(), 1);
    assert!(plan.remove.is_empty() && plan.keep.is_empty());
}

#[test]
fn a_clash_names_all_and_gives_the_folder_to_none_but_its_holder() {
    let mut said = Said::default();
    for namespace in ["n", "m"] {
        let secrets = [(id(namespace, "a"), wish("u", Some("a")))];
        said.listed(namespace, secrets.into());
    }
    let policy = policy(&["m", "n"]);
    let fresh = plan(&said, &BTreeMap::new(), &policy);
    assert!(fresh.granted.is_empty());
    let clash = |other: &str| Conflict::Clash {
        folder: "a".into(),
        others: vec![id(other, "a")],
    };
    let both = [(id("n", "a"), clash("m")), (id("m", "a"), clash("n"))];
    assert_eq!(fresh.conflicts, both.into());
    let held = plan(&said, &present(&["a"]), &policy);
    assert_eq!(held.granted, [(id("n", "a"), "a".to_owned())].into());
    assert_eq!(held.conflicts, [(id("m", "a"), clash("n"))].into());
}

#[test]
fn the_folder_of_a_namespace_that_could_not_be_listed_is_nobody_elses() {
    let mut said = Said::default();
    said.listed("m", [(id("m", "a"), wish("u", Some("a")))].into());
    for namespaces in [&["m", "n"][..], &["m"]] {
        let plan = plan(&said, &present(&["a"]), &policy(namespaces));
        assert!(plan.granted.is_empty() && plan.remove.is_empty());
        assert_eq!(plan.conflicts.len(), 1);
    }
}

#[test]
fn one_that_is_unfit_now_keeps_its_folder() {
    let mut said = Said::default();
    said.listed("n", [(id("n", "a"), wish("u", None))].into());
    let kept = plan(&said, &present(&["a"]), &policy(&["n"]));
    assert_eq!(kept.keep, [("a".to_owned(), Keep::Unfit)].into());
    said.applied(id("n", "a"), wish("another", None));
    let made_anew = plan(&said, &present(&["a"]), &policy(&["n"]));
    assert_eq!(made_anew.remove, ["a"]);
}

#[test]
fn another_name_template_moves_folders_without_being_a_mass_removal() {
    let mut said = Said::default();
    let moved = ["a", "b", "c"].map(|name| (id("n", name), wish("u", Some(&format!("n.{name}")))));
    said.listed("n", moved.into());
    let plan = plan(&said, &present(&["a", "b", "c"]), &policy(&["n"]));
    assert_eq!(plan.granted.len(), 3);
    assert_eq!(plan.remove, ["a", "b", "c"]);
}

const NAMESPACES: [&str; 3] = ["m", "n", "not-mirrored"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const UIDS: [&str; 2] = ["1", "2"];

fn any_id() -> impl Strategy<Value = Id> {
    (0..NAMESPACES.len(), 0..NAMES.len()).prop_map(|(n, m)| id(NAMESPACES[n], NAMES[m]))
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let folder = prop::option::weighted(0.9, 0..NAMES.len());
    (0..UIDS.len(), folder).prop_map(|(u, f)| wish(UIDS[u], f.map(|f| NAMES[f])))
}

fn any_present() -> impl Strategy<Value = BTreeMap<String, Present>> {
    let one = prop_oneof![
        1 => Just(Present::Foreign),
        5 => (any_id(), 0..UIDS.len()).prop_map(|(id, u)| Present::Ours { id, uid: UIDS[u].into() }),
    ];
    prop::collection::btree_map(
        (0..NAMES.len()).prop_map(|n| NAMES[n].to_owned()),
        one,
        0..6,
    )
}

#[derive(Clone, Debug)]
enum Event {
    Listed(usize, BTreeMap<String, Wish>),
    Applied(Id, Wish),
    Deleted(Id),
}

fn any_event() -> impl Strategy<Value = Event> {
    let names = (0..NAMES.len()).prop_map(|n| NAMES[n].to_owned());
    prop_oneof![
        (
            0..2usize,
            prop::collection::btree_map(names, any_wish(), 0..5)
        )
            .prop_map(|(n, secrets)| Event::Listed(n, secrets)),
        (any_id(), any_wish()).prop_map(|(id, wish)| Event::Applied(id, wish)),
        any_id().prop_map(Event::Deleted),
    ]
}

fn said_of(events: Vec<Event>) -> Said {
    let mut said = Said::default();
    for event in events {
        match event {
            Event::Listed(n, secrets) => {
                let secrets = secrets
                    .into_iter()
                    .map(|(name, w)| (id(NAMESPACES[n], &name), w));
                said.listed(NAMESPACES[n], secrets.collect());
            }
            Event::Applied(id, wish) => said.applied(id, wish),
            Event::Deleted(id) => said.deleted(id),
        }
    }
    said
}

/// What the disk looks like after the plan was carried out.
fn carry_out(
    said: &Said,
    mut present: BTreeMap<String, Present>,
    plan: &Plan,
) -> BTreeMap<String, Present> {
    for (id, folder) in &plan.granted {
        let uid = said.secrets[id].uid.clone();
        present.insert(
            folder.clone(),
            Present::Ours {
                id: id.clone(),
                uid,
            },
        );
    }
    for folder in &plan.remove {
        present.remove(folder);
    }
    present
}

proptest! {
    #[test]
    fn whatever_is_said_and_there_a_plan_is_safe(
        events in prop::collection::vec(any_event(), 0..12),
        there in any_present(),
        allow_mass_removal: bool,
    ) {
        let said = said_of(events);
        let policy = Policy { allow_mass_removal, ..policy(&["m", "n"]) };
        let plan = plan(&said, &there, &policy);

        // Every Secret that wants a folder has it or is told why not, and no folder has two.
        for (id, wish) in &said.secrets {
            let has = plan.granted.get(id);
            prop_assert_eq!(wish.folder.is_some(), has.is_some() != plan.conflicts.contains_key(id));
            prop_assert!(has.is_none() || has == wish.folder.as_ref());
        }
        let folders: BTreeSet<_> = plan.granted.values().collect();
        prop_assert_eq!(folders.len(), plan.granted.len());

        // What was made by hand is neither written nor removed.
        for (folder, _) in there.iter().filter(|(_, what)| **what == Present::Foreign) {
            prop_assert!(!folders.contains(folder) && !plan.remove.contains(folder));
        }

        // Each removal has a reason, and what lists alone remove is never a mass.
        let mut by_list: BTreeMap<&str, usize> = BTreeMap::new();
        for folder in &plan.remove {
            let Present::Ours { id, uid } = &there[folder] else { unreachable!() };
            prop_assert!(!folders.contains(folder), "written and removed");
            let still_wanted = said.secrets.get(id).is_some_and(|wish| wish.uid == *uid);
            if still_wanted && !said.deleted.contains(id) && policy.namespaces.contains(&id.namespace) {
                prop_assert!(plan.granted.contains_key(id), "removed, and written nowhere");
            } else if !said.deleted.contains(id) && !plan.granted.contains_key(id) {
                let listed = said.listed.contains(&id.namespace);
                prop_assert!(listed || !policy.namespaces.contains(&id.namespace));
                *by_list.entry(&id.namespace).or_default() += 1;
            }
        }
        for (namespace, going) in by_list {
            prop_assert!(allow_mass_removal || !is_mass(going, count(&there, namespace)));
            prop_assert!(allow_mass_removal || policy.namespaces.contains(namespace));
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_remove_but_what_it_uncovered(
        events in prop::collection::vec(any_event(), 0..12),
        there in any_present(),
    ) {
        let said = said_of(events);
        let policy = Policy { allow_mass_removal: true, ..policy(&["m", "n"]) };
        let mut present = there;
        // A folder that becomes free may be granted in the next round, and so on.
        for _ in 0..=NAMES.len() {
            let plan = plan(&said, &present, &policy);
            present = carry_out(&said, present, &plan);
        }
        let last = plan(&said, &present, &policy);
        prop_assert_eq!(carry_out(&said, present.clone(), &last), present);
        prop_assert!(last.remove.is_empty());
    }
}
