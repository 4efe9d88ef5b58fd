//! Any text as a configuration: it is valid, or the error states the place.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sds_agent::config::{Changes, Config, ConfigError, Options};

fuzz_target!(|text: &str| {
    let path = Path::new("/etc/sds-agent/sds-agent.toml");
    match Config::parse(path, text, &Options::default()) {
        Ok(config) => {
            // A valid configuration can be reloaded onto itself without a change.
            let (_, changes) = config.reload(config.clone());
            assert_eq!(changes, Changes::default());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n'), "{message:?}");
            let ConfigError::Wrong { line, .. } = error else {
                panic!("{message}");
            };
            assert!(
                line >= 1 && line <= text.lines().count().max(1) + 1,
                "{message}"
            );
        }
    }
});
