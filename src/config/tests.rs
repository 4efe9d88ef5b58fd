use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/a.toml"), text, &Options::default())
        .map_err(|error| error.to_string())
}

/// The example with every key uncommented.
fn example() -> String {
    let text = include_str!("../../examples/sds-agent.toml");
    text.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest,
            _ => "",
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_example_has_the_defaults() {
    let everyone = AccessRule {
        secrets: vec!["*".parse().unwrap()],
        users: Vec::new(),
        groups: Vec::new(),
        nodes: Vec::new(),
    };
    let mut config = parse(&example()).unwrap();
    let named = config.roots.remove(0);
    let with_settings = config.roots.pop().unwrap();
    assert_eq!(with_settings.path, Path::new("/srv/certificates"));
    let like_others = Root {
        path: config.roots[0].path.clone(),
        ..with_settings
    };
    assert_eq!(like_others, config.roots[0]);
    assert!(matches!(&named.layout, Layout::Named(named) if named[0].files.len() == 9));
    let trust = std::mem::take(&mut config.roots[0].trust);
    assert_eq!(trust.keys().collect::<Vec<_>>(), ["site.example.com"]);
    assert_eq!(
        config,
        Config {
            access: vec![everyone],
            ..Config::default()
        }
    );
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(
        parse(include_str!("../../examples/sds-agent.toml")).unwrap(),
        Config::default()
    );
}

#[test]
fn the_example_has_every_key() {
    let text = example();
    let sections = keys::sections();
    let all = (sections.iter()).flat_map(|one| one.keys.iter().map(|key| (one.name, key)));
    for (section, key) in all {
        let place = if section.is_empty() {
            0
        } else {
            text.find(&format!("[{section}]")).unwrap()
        };
        let mut lines = text[place..].lines();
        lines.next();
        let found = lines
            .take_while(|line| section.is_empty() || !line.starts_with('['))
            .any(|line| line.starts_with(&format!("{key} = ")));
        let is_section = text.contains(&format!("[{key}]"));
        assert!(found || is_section, "no `{key}` in [{section}]");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
    for (text, expected) in [
        (
            "\nwarm_days = 3",
            "/etc/a.toml:2:1: there is no key `warm_days`; did you mean `warn_days`?",
        ),
        (
            "[listen]\n mod = 1",
            "/etc/a.toml:2:2: there is no key `mod` in [listen]; did you mean `mode`?",
        ),
        (
            "mode = '0660'",
            "/etc/a.toml:1:1: there is no key `mode`; did you mean `mode` in [listen]?",
        ),
        (
            "[[root]]\npath='/a'\n[[root]]\npaht='/b'",
            "/etc/a.toml:4:1: there is no key `paht` in [root]; did you mean `path`?",
        ),
        (
            "[limit]",
            "/etc/a.toml:1:2: there is no key `limit`; did you mean `limits`?",
        ),
        (
            "log.levle = 'info'",
            "/etc/a.toml:1:1: there is no key `log`; did you mean `log_level`?",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected);
    }
}

#[test]
fn an_invalid_value_is_refused_with_its_line_and_the_expected_form() {
    for (text, expected) in [
        (
            "warn_days = -1",
            "1:13: invalid value: integer `-1`, expected a whole number from 0 to 36500",
        ),
        (
            "warn_days = 'x'",
            "1:13: \"x\" is not a number; write a whole number from 0 to 36500, without quotes",
        ),
        (
            "removal_delay = 1",
            "1:17: invalid value: integer `1`, expected a duration such as \"500ms\" or \"1s\"",
        ),
        (
            "[listen]\nmode = '0999'",
            "2:8: \"0999\" is not a mode; write it in octal as in \"0660\"",
        ),
        (
            "[listen]\nmode = 660",
            "2:8: invalid value: integer `660`, expected a mode such as \"0660\", with its quotes",
        ),
        (
            "admin_tcp = '0.0.0.0:9902'",
            "1:13: 0.0.0.0:9902 is not a loopback address",
        ),
        (
            "admin_tcp = 9902",
            "1:13: invalid value: integer `9902`, expected an address such as \"127.0.0.1:9901\", or \"off\"",
        ),
        (
            "log_level = 'inof'",
            "1:13: \"inof\" is not a log level; write error,",
        ),
        (
            "absent = 'no'",
            "1:10: unknown variant `no`, expected `wait` or `say-so`",
        ),
        (
            "credentials = []",
            "1:15: the list is empty; name at least one folder",
        ),
        (
            "credentials = ['/a', '/a/']",
            "1:22: the root /a/ is listed twice; remove one of the two",
        ),
        ("[[root]]\nconfine = true", "1:1: missing field `path`"),
        (
            "[[access]]\nsecrets = []",
            "2:11: the rule gives access to nothing",
        ),
        (
            "socket = '/a'\n[listen]\nsocket = '/b'",
            "1:10: conflicting values for `socket` and its old name, `socket` in [listen]; remove the latter",
        ),
        (
            "[access]\nsecrets = ['a']",
            "1:2: expected `[[access]]`, with two brackets",
        ),
        (
            "[[listen]]\nmode = '0660'",
            "1:3: expected `[listen]`, with one bracket",
        ),
        ("warn_days = 1\nwarn_days = 2", "2:1: duplicate key"),
        (
            "socket = ''",
            "1:10: the path is empty; name a file or folder",
        ),
        ("credentials = ['/a', '']", "1:22: the path is empty"),
        (
            "[[secret]]\nname = 'a'\nticket_keys = ['/a', '']",
            "3:22: the path is empty",
        ),
        (
            "[[secret]]\nname = 'a'\ntrusted_ca = ''",
            "3:14: the path is empty",
        ),
        ("removal_delay = '1year'", "1:17: \"1year\" is too long"),
        (
            "[[root]]\npath = '/a'\npoll_interval = '0s'",
            "3:17: \"0s\" is too short; the minimum is 100ms, or \"auto\"",
        ),
        ("warn_days = ", "1:13: "),
    ] {
        let error = parse(text).unwrap_err();
        let expected = format!("/etc/a.toml:{expected}");
        assert!(
            error.starts_with(&expected),
            "{text}\nexpected: {expected}\ngot:      {error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn the_command_line_takes_precedence_over_the_file() {
    let overrides = Options {
        credentials: Some(
            ["/b", "/c"]
                .map(|path| options::nowhere(path.into()))
                .into(),
        ),
        socket: Some("/s/x.sock".into()),
        warn_days: Some(1),
        ..Options::default()
    };
    let text = "warn_days = 9\nsocket = 'y.sock'\nabsent = 'wait'\n\
                [[root]]\npath = '/a'\n[[root]]\npath = '/b'\nconfine = true";
    let config = Config::parse(Path::new("/etc/a.toml"), text, &overrides).unwrap();
    assert_eq!(config.warn_days, 1);
    assert_eq!(config.listen.socket, Path::new("/s/x.sock"));
    assert_eq!(
        config.admin.socket.as_deref(),
        Some(Path::new("/s/admin.sock"))
    );
    let [b, c] = &config.roots[..] else {
        panic!("{:?}", config.roots)
    };
    assert!(b.confine && b.absent == Absent::Wait);
    assert!(!c.confine && c.absent == Absent::Wait);
}

#[test]
fn old_names_are_read_with_a_warning_that_names_the_new_one() {
    let old = "[listen]\nsocket = 's'\nmode = '0600'\n[admin]\nsocket = 'off'\ntcp = '127.0.0.1:1'\n\
               [log]\nlevel = 'debug'\nformat = 'json'\n";
    let new = "socket = 's'\nadmin_socket = 'off'\nadmin_tcp = '127.0.0.1:1'\nlog_level = 'debug'\n\
               log_format = 'json'\n[listen]\nmode = '0600'\n";
    let mut config = parse(old).unwrap();
    let warnings = std::mem::take(&mut config.warnings);
    assert_eq!(config, parse(new).unwrap());
    assert_eq!(
        warnings[0],
        "/etc/a.toml:2: `socket` in [listen] is now `socket` at the top of the file; move it there: the \
         next release will not read it here"
    );
    let places = [
        (2, "socket"),
        (5, "admin_socket"),
        (6, "admin_tcp"),
        (8, "log_level"),
        (9, "log_format"),
    ];
    for (warning, (line, name)) in warnings.iter().zip(places) {
        assert!(
            warning.starts_with(&format!("/etc/a.toml:{line}: ")),
            "{warning}"
        );
        assert!(warning.contains(&format!("is now `{name}`")), "{warning}");
    }
    assert_eq!(warnings.len(), places.len());
    // Both forms are accepted together if their values agree.
    assert_eq!(
        parse(&format!("socket = 's'\n{old}"))
            .unwrap()
            .warnings
            .len(),
        5
    );
    assert_eq!(parse("[log]\n").unwrap(), Config::default());
}

#[test]
fn off_works_in_the_file_and_on_the_command_line() {
    let options = Options {
        admin_tcp: Some(None),
        default_credential: Some(None),
        ..Options::default()
    };
    let text = "admin_tcp = '127.0.0.1:9902'\ndefault_credential = 'a'\nadmin_socket = 'off'";
    let config = Config::parse(Path::new("/etc/a.toml"), text, &options).unwrap();
    assert_eq!((config.admin.tcp, config.admin.socket), (None, None));
    assert_eq!(config.default_credential, None);
    assert!(parse("admin_tcp = '[::]:1'").is_err());
}

#[test]
fn a_relative_path_starts_from_the_folder_of_the_file() {
    let config = parse("credentials = ['c']\nsocket = 's'").unwrap();
    assert_eq!(config.roots[0].path, Path::new("/etc/c"));
    assert_eq!(config.listen.socket, Path::new("/etc/s"));
}

#[test]
fn a_reload_applies_what_a_running_agent_can_change() {
    let old = parse("[[root]]\npath = '/a'\n[[root]]\npath = '/b'\n[[root]]\npath = '/c'").unwrap();
    let new = parse(
        "warn_days = 9\nsocket = '/s'\nlog_level = 'debug'\nlog_format = 'json'\n\
         [[root]]\npath = '/c'\nconfine = true\n[[root]]\npath = '/b'\n[[root]]\npath = '/d'",
    )
    .unwrap();
    let (config, changes) = old.reload(new.clone());
    assert_eq!(
        changes.needs_restart,
        ["socket", "admin_socket", "log_format"]
    );
    assert_eq!(
        changes.to_string(),
        "root /c changed, root /d added, root /a removed, roots reordered, \
         changed keys: warn_days log_level"
    );
    assert_eq!(config.roots, new.roots);
    assert_eq!((config.warn_days, config.listen), (9, old.listen.clone()));
    assert_eq!(
        (config.log.level, config.log.format),
        (new.log.level, old.log.format)
    );
    assert_eq!(old.reload(old.clone()).1, Changes::default());
}

#[test]
fn a_reload_lists_changed_keys_and_only_roots_with_changed_settings() {
    let roots = "[[root]]\npath = '/a'\n[[root]]\npath = '/b'\nwarn_days = 30\nabsent = 'say-so'\n";
    let changes = |old: &str, new: &str| {
        let old = parse(old).unwrap();
        old.reload(parse(new).unwrap()).1.to_string()
    };
    let more = |text: &str| format!("{text}{roots}");
    for top in ["warn_days = 9", "absent = 'wait'"] {
        let key = top.split(' ').next().unwrap();
        let expected = format!("changed keys: {key}");
        assert_eq!(changes(roots, &more(&format!("{top}\n"))), expected);
        assert_eq!(changes(&more(&format!("{top}\n")), roots), expected);
    }
    // A root that sets only one of the two.
    assert_eq!(
        changes(
            "[[root]]\npath = '/a'\nwarn_days = 30\n",
            "warn_days = 9\nabsent = 'wait'\n[[root]]\npath = '/a'\nwarn_days = 30\n"
        ),
        "changed keys: absent warn_days"
    );
    let own = roots.replace("30", "31");
    assert_eq!(changes(roots, &own), "root /b changed");
    assert_eq!(
        changes(roots, &format!("warn_days = 9\n{own}")),
        "root /b changed, changed keys: warn_days"
    );
    let trust = format!("{roots}[[trust]]\nname = 'x'\ncheck = 'lenient'\n");
    assert_eq!(changes(roots, &trust), "changed keys: trust");
    let secret = format!("{roots}[[secret]]\nname = 'x'\ntrusted_ca = '/x'\n");
    assert_eq!(changes(roots, &secret), "[[secret]] added");
}

proptest::proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_an_error_with_its_line(at in 0..5000_usize, length in 0..40_usize, insert in ".{0,6}") {
        let text: Vec<char> = example().chars().collect();
        let start = at.min(text.len());
        let end = (start + length).min(text.len());
        let damaged: String = text[..start].iter().chain(insert.chars().collect::<Vec<_>>().iter())
            .chain(&text[end..]).collect();
        if let Err(error) = parse(&damaged) {
            let place = error.strip_prefix("/etc/a.toml:").unwrap();
            let line: usize = place.split(':').next().unwrap().parse().unwrap();
            assert!((1..=damaged.matches('\n').count() + 1).contains(&line), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}

#[test]
fn the_options_of_a_trust_bundle_are_read_or_refused_with_the_line() {
    let config = parse(
        "[[trust]]\nname = 'a'\nsubject_alt_names = ['dns:*.b.test', 'ip:10.0.0.1', 'uri:spiffe://x/*']\n\
         allow_expired_certificate = true\nmax_verify_depth = 3\n\
         [[trust]]\nname = 'b'\ncheck = 'lenient'\n",
    )
    .unwrap();
    let trust = &config.roots[0].trust;
    let name = |kind, matcher| SubjectAltName { kind, matcher };
    let expected = TrustOptions {
        name: "a".into(),
        subject_alt_names: vec![
            name(SanKind::Dns, Matcher::Suffix(".b.test".into())),
            name(SanKind::IpAddress, Matcher::Exact("10.0.0.1".into())),
            name(SanKind::Uri, Matcher::Prefix("spiffe://x/".into())),
        ],
        allow_expired_certificate: true,
        max_verify_depth: Some(3),
        ..TrustOptions::default()
    };
    assert_eq!(*trust["a"], expected);
    assert!(trust["b"].tolerates_expired() && trust["b"].checks_leaf_alone());
    assert!(!trust["a"].checks_leaf_alone());

    for (lines, expected) in [
        ("", "missing field `name`"),
        ("name = ''", "no credential can have this name"),
        (
            "name = 'a'\nsubject_alt_names = ['a.test']",
            "expected `dns:NAME`",
        ),
        (
            "name = 'a'\nsubject_alt_names = ['dns:a*b']",
            "at the start or at the end",
        ),
        (
            "name = 'a'\nsubject_alt_names = ['ip:localhost']",
            "an IP address",
        ),
        ("name = 'a'\ncertificate_spki = ['AAAA']", "in base64"),
        (
            "name = 'a'\ncertificate_hash = ['AAAA']",
            "64 hexadecimal digits",
        ),
        ("name = 'a'\n[[trust]]\nname = 'a'", "already has options"),
        ("name = 'a'\nchekc = 'lenient'", "did you mean `check`?"),
    ] {
        let error = parse(&format!("[[trust]]\n{lines}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}
