//! Roots whose files themselves are credentials, and credentials whose files are anywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::util::agent::PROGRAM;
use crate::util::folders::write_files;
use crate::util::sds::Delta;
use crate::util::{
    Agent, Bed, Envoy, Host, Identity, Protocol, admin, eventually_true, kubelet, require, tools,
};

/// A configuration, and an agent that uses it.
struct Place {
    bed: Bed,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let bed = Bed::new();
        let file = bed.scratch("sds-agent.toml");
        Self { bed, file }
    }

    /// The root is flat.
    fn flat() -> Self {
        let place = Self::new();
        place.configure("");
        place
    }

    /// The root is flat, with `more` of its settings.
    fn configure(&self, more: &str) {
        let root = self.bed.root.path();
        let text = format!("[[root]]\npath = {root:?}\nlayout = \"flat\"\n{more}\n");
        self.write(&text);
    }

    fn write(&self, text: &str) {
        fs::write(&self.file, format!("reload = \"signal\"\n{text}")).unwrap();
    }

    fn agent(&self) -> Agent {
        let builder = Agent::builder(&self.bed.socket());
        self.bed.ready(builder.arg("--config").arg(&self.file))
    }

    fn reload(&self, agent: &Agent) {
        let lines = agent.lines().len();
        agent.signal(Signal::HUP);
        agent.wait_for_line_after(lines, &["reloaded"]);
    }

    /// Writes files into the root.
    fn put<C: AsRef<[u8]>>(&self, files: &[(&str, C)]) {
        write_files(&self.bed.root.path(), files);
        for (name, _) in files {
            let path = self.bed.root.path().join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
        }
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.bed.root.path().join(name)).unwrap();
    }

    fn stream(&self, names: &[&str]) -> Delta {
        let mut stream = self.bed.client().delta();
        stream.subscribe(names);
        stream
    }

    fn identity(&self, host: &str) -> Identity {
        self.bed.ca.server(&[host])
    }

    fn status(&self) -> Value {
        admin::status(&self.bed.admin())
    }

    fn check(&self, more: &[&str]) -> Output {
        check(&self.file, more)
    }

    fn check_json(&self) -> Value {
        serde_json::from_slice(&self.check(&["--output", "json"]).stdout).unwrap()
    }
}

fn check(config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("check").arg("--config").arg(config).args(more);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_serves(stream: &mut Delta, identity: &Identity) {
    let served = stream.secret();
    assert!(served.is_pair(&identity.chain, &identity.key), "{served:?}");
}

/// The names and states of a report of `check`.
fn credentials(report: &Value) -> Vec<[&str; 2]> {
    let credentials = report["credentials"].as_array().unwrap().iter();
    credentials
        .map(|one| ["name", "state"].map(|key| one[key].as_str().unwrap()))
        .collect()
}

#[test]
fn a_remedy_names_the_file_itself_whatever_it_is_known_as() {
    let place = Place::new();
    let identity = place.identity("site.test");
    place.put(&[("site.crt", &*identity.chain), ("site.key", &*identity.key)]);
    let (root, elsewhere) = (place.bed.root.path(), place.bed.scratch("else where"));
    write_files(
        &elsewhere,
        &[("chain", &identity.chain), ("it's", &identity.key)],
    );
    let keys = [root.join("site.key"), elsewhere.join("it's")];
    for key in &keys {
        fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    }
    place.write(&format!(
        "[[root]]\npath = {root:?}\nlayout = \"flat\"\n\n[[secret]]\nname = \"named\"\n\
         certificate = {:?}\nprivate_key = {:?}\n",
        elsewhere.join("chain"),
        keys[1]
    ));
    let report = place.check_json();
    for credential in report["credentials"].as_array().unwrap() {
        let remedy = credential["warnings"][0]["remedy"].as_str().unwrap();
        let (_, command) = remedy.split_once("remove it: ").unwrap();
        let run = Command::new("sh").args(["-ec", command]).status().unwrap();
        assert!(run.success(), "{command}");
    }
    for key in &keys {
        let mode = fs::metadata(key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{}", key.display());
    }
    assert_eq!(place.check(&[]).status.code(), Some(0));
}

#[test]
fn legos_certificates_folder_is_served_as_a_flat_root() {
    let place = Place::flat();
    let (site, wild) = (
        place.identity("site.example.com"),
        place.identity("*.wild.example.com"),
    );
    let issuer = place.bed.ca.pem().to_owned();
    place.put(&[
        ("site.example.com.crt", &site.chain),
        ("site.example.com.issuer.crt", &issuer),
        ("site.example.com.json", &"{}".to_owned()),
        ("site.example.com.key", &site.key),
        (
            "site.example.com.pem",
            &format!("{}{}", site.chain, site.key),
        ),
        ("_.wild.example.com.crt", &wild.chain),
        ("_.wild.example.com.issuer.crt", &issuer),
        ("_.wild.example.com.key", &wild.key),
    ]);
    let agent = place.agent();
    let mut stream = place.stream(&["site.example.com"]);
    assert_serves(&mut stream, &site);
    // A wildcard is found by the hosts that it covers, and by the name of its files.
    for name in ["a.wild.example.com", "_.wild.example.com"] {
        stream.subscribe(&[name]);
        assert_serves(&mut stream, &wild);
    }
    for name in ["site.example.com-cacert", "site.example.com.issuer"] {
        stream.subscribe(&[name]);
        assert_eq!(stream.removed(), [name]);
    }
    let report = place.check_json();
    assert_eq!(
        credentials(&report),
        [["_.wild.example.com", "ok"], ["site.example.com", "ok"]]
    );
    let pair = &report["credentials"][1]["secrets"][0];
    assert_eq!(pair["files"][0], "site.example.com.crt");
    assert_eq!(pair["files"][1], "site.example.com.key");

    // A renewal writes the certificate first, over the old one.
    let renewed = place.identity("site.example.com");
    let root = place.bed.root.path();
    fs::write(root.join("site.example.com.crt"), &renewed.chain).unwrap();
    fs::write(root.join("site.example.com.key"), &renewed.key).unwrap();
    assert_serves(&mut stream, &renewed);
    stream.0.assert_silent();
    assert!(
        agent.lines_with(&["rejected"]).is_empty(),
        "{:#?}",
        agent.lines()
    );
}

#[test]
fn files_of_haproxy_and_mkcert_are_grouped_by_name() {
    let place = Place::flat();
    let ids = ["one", "two", "three"].map(|host| place.identity(&format!("{host}.test")));
    place.put(&[
        ("one.pem", &format!("{}{}", ids[0].chain, ids[0].key)),
        ("two.pem", &ids[1].chain),
        ("two-key.pem", &ids[1].key),
        ("three.crt", &ids[2].chain),
        ("three.key", &ids[2].key),
        ("three-cacert.crt", &place.bed.ca.pem().to_owned()),
        ("clients-cacert.pem", &place.bed.ca.pem().to_owned()),
        ("README", &String::new()),
    ]);
    let _agent = place.agent();
    let mut stream = place.bed.client().delta();
    for (name, identity) in [("one", &ids[0]), ("three", &ids[2])] {
        stream.subscribe(&[name]);
        assert_serves(&mut stream, identity);
    }
    for name in ["three-cacert", "clients-cacert"] {
        stream.subscribe(&[name]);
        let served = stream.secret();
        assert!(served.is_trust(place.bed.ca.pem()), "{served:?}");
    }
}

#[test]
fn a_change_of_one_credential_is_sent_only_for_that_credential() {
    let place = Place::flat();
    let [a, b] = ["a", "b"].map(|name| place.identity(&format!("{name}.test")));
    place.put(&[("a.crt", &a.chain), ("a.key", &a.key)]);
    place.put(&[("b.crt", &b.chain), ("b.key", &b.key)]);
    let agent = place.agent();
    let mut stream = place.stream(&["a"]);
    assert_serves(&mut stream, &a);
    stream.subscribe(&["b"]);
    assert_serves(&mut stream, &b);
    let reads = "sds_agent_read_duration_seconds_count{what=\"folder\"}";
    let before = admin::metric(&place.bed.admin(), reads);
    for _ in 0..5 {
        let a = place.identity("a.test");
        place.put(&[("a.crt", &a.chain), ("a.key", &a.key)]);
        assert_serves(&mut stream, &a);
    }
    if let (Some(before), Some(after)) = (before, admin::metric(&place.bed.admin(), reads)) {
        // Two files each time, with at most two events for each: `b` is not affected.
        assert!(after - before <= 30.0, "{before} {after}");
    }
    stream.0.assert_silent();
    assert_eq!(agent.lines_with(&["rotated", "credential=\"b\""]).len(), 0);
}

#[test]
fn a_pair_that_loses_one_file_stays_in_service_and_one_that_loses_both_is_removed() {
    let place = Place::flat();
    let identity = place.identity("site.test");
    place.put(&[("site.crt", &identity.chain), ("site.key", &identity.key)]);
    let agent = place.agent();
    let mut stream = place.stream(&["site"]);
    assert_serves(&mut stream, &identity);
    place.remove("site.key");
    agent.wait_for_line(&["rejected", "credential=\"site\"", "site.crt"]);
    stream.0.assert_silent();
    let status = place.status();
    let problem = &status["credentials"][0]["problems"][0];
    let root = place.bed.root.path();
    assert!(
        problem["path"]
            .as_str()
            .unwrap()
            .starts_with(root.to_str().unwrap()),
        "{problem}"
    );
    let lines = agent.lines().len();
    place.put(&[("site.key", &place.identity("site.test").key)]);
    agent.wait_for_line_after(lines, &["rejected", "credential=\"site\""]);
    stream.0.assert_silent();
    place.put(&[("site.key", &identity.key)]);
    agent.wait_for_line(&["the files are valid again"]);
    stream.0.assert_silent();
    place.remove("site.key");
    place.remove("site.crt");
    assert_eq!(stream.removed(), ["site"]);
    place.put(&[("site.crt", &identity.chain), ("site.key", &identity.key)]);
    assert_serves(&mut stream, &identity);
}

#[test]
fn an_entry_that_is_not_a_regular_file_affects_only_its_credential() {
    let place = Place::flat();
    let identity = place.identity("good.test");
    place.put(&[("good.crt", &identity.chain), ("good.key", &identity.key)]);
    place.put(&[("bad.crt", &identity.chain)]);
    let root = place.bed.root.path();
    let fifo = root.join("bad.key");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from(0o600)).unwrap();
    fs::create_dir(root.join("folder.crt")).unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    let agent = place.agent();
    let mut stream = place.stream(&["good"]);
    assert_serves(&mut stream, &identity);
    agent.wait_for_line(&["rejected", "credential=\"bad\"", "bad.key", "pipe"]);
    let output = place.check(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains(fifo.to_str().unwrap()), "{output:?}");
}

#[test]
fn a_flat_root_with_kubelets_data_link_is_read_as_one_generation() {
    let place = Place::flat();
    let root = place.bed.root.path();
    let write = |generation, identity: &Identity| {
        let files = [("site.crt", &identity.chain), ("site.key", &identity.key)];
        kubelet::write(&root, generation, &files).unwrap();
    };
    let mut identity = place.identity("site.test");
    write(1, &identity);
    let agent = place.agent();
    let mut stream = place.stream(&["site"]);
    assert_serves(&mut stream, &identity);
    for generation in 2..5 {
        identity = place.identity("site.test");
        write(generation, &identity);
        assert_serves(&mut stream, &identity);
    }
    assert!(agent.lines_with(&["rejected"]).is_empty());
}

#[test]
fn files_directly_in_a_root_of_folders_are_reported_with_the_setting_for_them() {
    let place = Place::new();
    let root = place.bed.root.path();
    place.write(&format!("credentials = [{root:?}]"));
    let identity = place.identity("site.test");
    for name in ["a", "b", "c"] {
        let names = [format!("{name}.crt"), format!("{name}.key")];
        place.put(&[(&*names[0], &identity.chain), (&*names[1], &identity.key)]);
    }
    let agent = place.agent();
    let expected = ["layout = \"flat\"", "a.crt, a.key, b.crt and 3 more"];
    let line = agent.wait_for_line(&["WARN", "directly in it"]);
    let output = place.check(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let status = Command::new(PROGRAM)
        .args(["status", "--admin-socket"])
        .arg(place.bed.admin())
        .output()
        .unwrap();
    for expected in expected {
        assert!(
            line.contains(&expected.replace('"', "\\\"")) || line.contains(expected),
            "{line}"
        );
        assert!(text(&output).contains(expected), "{output:?}");
        assert!(text(&status).contains(expected), "{status:?}");
    }
    assert_eq!(
        place.status()["roots"][0]["problems"][0]["reason"],
        "layout"
    );
    // The same for a folder that is only named on the command line.
    let named = check(Path::new("/dev/null"), &[root.to_str().unwrap()]);
    assert!(
        !named.status.success() || text(&named).contains("layout"),
        "{named:?}"
    );

    // The remedy works.
    place.configure("");
    place.reload(&agent);
    let mut stream = place.stream(&["a"]);
    assert_serves(&mut stream, &identity);
    assert_eq!(
        place.status()["roots"][0]["problems"],
        Value::Array(Vec::new())
    );
    assert!(place.check(&[]).status.success());
}

#[test]
fn a_root_that_is_a_credential_folder_a_file_or_missing_is_reported_as_such() {
    let place = Place::new();
    let root = place.bed.root.path();
    let identity = place.bed.pair("site");
    let folder = root.join("site");
    write_files(
        &folder,
        &[("tls.crt", &identity.chain), ("tls.key", &identity.key)],
    );
    for name in ["cert", "key"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let file = folder.join("tls.crt");
    let empty = place.bed.scratch("empty");
    fs::create_dir(&empty).unwrap();
    for (path, code, what, remedy) in [
        (
            &folder,
            2,
            "the folder of one credential",
            root.to_str().unwrap(),
        ),
        (&file, 2, "it is not a folder", "replace it with a folder"),
        (
            &empty,
            0,
            "it contains no credential",
            "put a folder for each credential there",
        ),
    ] {
        place.write(&format!("credentials = [{path:?}]"));
        let builder = Agent::builder(&place.bed.socket());
        let agent = builder.arg("--config").arg(&place.file).start();
        agent.wait_for_line(&["WARN", path.to_str().unwrap(), what, remedy]);
        assert!(
            agent.lines_with(&["does not exist"]).is_empty(),
            "{:#?}",
            agent.lines()
        );
        eventually_true("the root's problem in the status", || {
            let root = &place.status()["roots"][0];
            let mut all = ["problems", "warnings"].into_iter();
            all.any(|key| root[key].to_string().contains(what))
        });
        let output = place.check(&[]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(
            text(&output).contains(what) && text(&output).contains(remedy),
            "{output:?}"
        );
        agent.terminate();
    }
}

#[test]
fn empty_folders_and_folders_made_by_file_systems_are_skipped() {
    let place = Place::new();
    let root = place.bed.root.path();
    place.write(&format!("credentials = [{root:?}]"));
    let identity = place.bed.pair("site");
    place.bed.root.write("lost+found", &[("#123", "x")]);
    place
        .bed
        .root
        .write("@eaDir", &[("tls.crt@SynoEAStream", "x")]);
    fs::create_dir(root.join("empty")).unwrap();
    fs::set_permissions(
        place.bed.root.credential("site").join("key"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let agent = place.agent();
    let mut stream = place.stream(&["site"]);
    assert_serves(&mut stream, &identity);
    let status = place.status();
    let report = place.check_json();
    for name in ["lost+found", "@eaDir", "empty"] {
        assert!(
            agent.lines_with(&["WARN", name]).is_empty(),
            "{:#?}",
            agent.lines()
        );
        assert!(
            !status["credentials"].to_string().contains(name),
            "{status:#}"
        );
        assert!(
            !report["credentials"].to_string().contains(name),
            "{report:#}"
        );
        stream.subscribe(&[name]);
        assert_eq!(stream.removed(), [name]);
    }
}

fn secret(name: &str, files: &[(&str, &Path)]) -> String {
    let files = files
        .iter()
        .map(|(key, path)| format!("{key} = {path:?}\n"));
    format!("[[secret]]\nname = {name:?}\n{}", files.collect::<String>())
}

#[test]
fn files_anywhere_are_served_watched_and_reported_by_path() {
    let place = Place::new();
    let elsewhere = place.bed.root.beside("pki");
    let [chain, key] = ["chain/site.txt", "keys/site"].map(|name| elsewhere.join(name));
    let ca = elsewhere.join("clients.ca");
    let put = |path: &Path, content: &str| {
        let name = path.file_name().unwrap().to_str().unwrap();
        write_files(path.parent().unwrap(), &[(name, content)]);
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    };
    let first = place.identity("site.test");
    put(&chain, &first.chain);
    put(&key, &first.key);
    put(&ca, place.bed.ca.pem());
    let pair = [("certificate", &*chain), ("private_key", &*key)];
    let both = [pair[0], pair[1], ("trusted_ca", &*ca)];
    // It takes precedence over the folder of the same name.
    place.bed.pair("site");
    let credentials = format!("credentials = [{:?}]\n", place.bed.root.path());
    place.write(&(credentials.clone() + &secret("site", &both)));
    let agent = place.agent();
    let mut stream = place.stream(&["site"]);
    assert_serves(&mut stream, &first);
    stream.subscribe(&["site-cacert"]);
    assert!(stream.secret().is_trust(place.bed.ca.pem()));

    let second = place.identity("site.test");
    put(&chain, &second.chain);
    put(&key, &second.key);
    assert_serves(&mut stream, &second);

    // An invalid file is reported with its path, and the previous version stays.
    put(&key, "broken");
    let path = key.to_str().unwrap();
    agent.wait_for_line(&["rejected", "credential=\"site\"", path]);
    fs::remove_file(&key).unwrap();
    agent.wait_for_line(&["rejected", "credential=\"site\"", path, "it does not exist"]);
    stream.0.assert_silent();
    let found = admin::secret(&place.bed.admin(), "site", |secret| {
        secret["problems"][0]["path"] == *path
    });
    assert_eq!(found["files"][0], *chain.to_str().unwrap());
    let output = place.check(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output).contains(path), "{output:?}");
    put(&key, &second.key);
    agent.wait_for_line(&["the files are valid again"]);
    stream.0.assert_silent();
    assert!(place.check_json()["credentials"].to_string().contains(path));
}

#[test]
fn a_reload_adds_changes_and_removes_secrets() {
    let place = Place::new();
    let folder = place.bed.root.beside("pki");
    let [one, two] = ["one", "two"].map(|name| place.identity(&format!("{name}.test")));
    for (name, identity) in [("one", &one), ("two", &two)] {
        let files = [("cert", &identity.chain), ("key", &identity.key)];
        write_files(&folder.join(name), &files);
    }
    // Relative paths start from the file's folder.
    let of = |name: &str, from: &str| {
        let [cert, key] = ["cert", "key"].map(|file| folder.join(from).join(file));
        secret(name, &[("certificate", &cert), ("private_key", &key)])
    };
    place.write(&format!("credentials = []\n{}", of("a", "one")));
    let agent = place.agent();
    let mut stream = place.stream(&["a"]);
    assert_serves(&mut stream, &one);
    stream.subscribe(&["b"]);
    assert_eq!(stream.removed(), ["b"]);

    place.write(&format!(
        "credentials = []\n{}{}",
        of("a", "one"),
        of("b", "two")
    ));
    place.reload(&agent);
    assert_serves(&mut stream, &two);
    stream.0.assert_silent();

    place.write(&format!(
        "credentials = []\n{}{}",
        of("a", "two"),
        of("b", "two")
    ));
    place.reload(&agent);
    assert_serves(&mut stream, &two);
    stream.0.assert_silent();

    place.write(&format!("credentials = []\n{}", of("b", "two")));
    place.reload(&agent);
    assert_eq!(stream.removed(), ["a"]);
    stream.0.assert_silent();
}

#[test]
fn invalid_secret_entries_are_refused_with_their_line() {
    let place = Place::new();
    let pair = "certificate = \"c\"\nprivate_key = \"k\"\n";
    for (text, line, message) in [
        (
            format!("[[secret]]\nname = \"\"\n{pair}"),
            2,
            "no credential can have this name",
        ),
        (
            format!("[[secret]]\nname = \"*\"\n{pair}"),
            2,
            "no credential can have this name",
        ),
        (
            format!("[[secret]]\nname = \"a/b\"\n{pair}"),
            2,
            "no credential can have this name",
        ),
        (
            format!("[[secret]]\nname = \".a\"\n{pair}"),
            2,
            "no credential can have this name",
        ),
        (
            format!("[[secret]]\nname = {:?}\n{pair}", "n".repeat(254)),
            2,
            "no credential can have this name",
        ),
        (
            format!("[[secret]]\nname = \"a\"\n{pair}[[secret]]\nname = \"a\"\n{pair}"),
            6,
            "another [[secret]] has this name",
        ),
        (
            "[[secret]]\nname = \"a\"\ncertificate = \"c\"".to_owned(),
            3,
            "requires `private_key`",
        ),
        (
            "[[secret]]\nname = \"a\"\nprivate_key = \"c\"".to_owned(),
            3,
            "requires `certificate`",
        ),
        (
            "[[secret]]\nname = \"a\"\ncrl = \"c\"".to_owned(),
            3,
            "requires `trusted_ca`",
        ),
        ("[[secret]]\nname = \"a\"".to_owned(), 2, "no file is given"),
        (
            format!(
                "[[secret]]\nname = \"a\"\nticket_keys = [{}]",
                "\"k\",".repeat(9)
            ),
            3,
            "more than 8 ticket keys",
        ),
        (
            "[[secret]]\nname = \"a\"\ncert = \"c\"".to_owned(),
            3,
            "did you mean `certificate`",
        ),
        (
            "[[root]]\npath = \"a\"\nlayout = \"nested\"".to_owned(),
            3,
            "flat",
        ),
    ] {
        fs::write(&place.file, &text).unwrap();
        let output = Command::new(PROGRAM)
            .args(["serve", "--check-config", "--config"])
            .arg(&place.file)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}");
        assert!(
            error.contains(&format!(":{line}:")) && error.contains(message),
            "{text}\n{error}"
        );
    }
}

#[test]
fn envoy_serves_a_flat_root_and_files_anywhere() {
    let Some(program) = require(&tools::ENVOY) else {
        return;
    };
    let place = Place::new();
    let elsewhere = place.bed.root.beside("pki");
    let [flat, named] = ["flat.example", "named.example"].map(|host| place.identity(host));
    write_files(&elsewhere, &[("cert", &named.chain), ("key", &named.key)]);
    place.put(&[
        ("flat.example.crt", &flat.chain),
        ("flat.example.key", &flat.key),
    ]);
    let [cert, key] = ["cert", "key"].map(|name| elsewhere.join(name));
    place.configure(&secret(
        "named",
        &[("certificate", &cert), ("private_key", &key)],
    ));
    let _agent = place.agent();
    let hosts = [
        Host::new("flat.example", "flat.example"),
        Host::new("named.example", "named"),
    ];
    let envoy = Envoy::start(&program, &place.bed.socket(), Protocol::Delta, &hosts);
    let presents = |host: &str, identity: &Identity| {
        eventually_true("Envoy presents the certificate", || {
            let https = envoy.https(host).ca(place.bed.ca.pem());
            https.leaf().is_ok_and(|leaf| leaf == identity.der)
        });
    };
    presents("flat.example", &flat);
    presents("named.example", &named);
    let [flat, named] = ["flat.example", "named.example"].map(|host| place.identity(host));
    place.put(&[
        ("flat.example.crt", &flat.chain),
        ("flat.example.key", &flat.key),
    ]);
    write_files(&elsewhere, &[("cert", &named.chain), ("key", &named.key)]);
    presents("flat.example", &flat);
    presents("named.example", &named);
    envoy.assert_no_rejection();
}
