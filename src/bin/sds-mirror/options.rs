//! The command line and the configuration file: the same options in both. The command line takes precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sds_agent::config::{self, Account, LogFilter, LogFormat};
use sds_agent::config::{parse_duration, parse_mode, parse_tcp};
use serde::{Deserialize, Deserializer};

/// The options as they were given.
#[derive(clap::Args, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    /// The kubeconfig with address and credentials of the cluster [default without --server: $KUBECONFIG,
    /// ~/.kube/config, or the service account of the pod that this runs in]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig [default: its current context]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The API server's URL, instead of a kubeconfig
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// The CA certificates that verify the API server; requires --server
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// A file with a bearer token; it is read for every request, so the token can be rotated
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// The namespaces whose Secrets are mirrored
    #[arg(long, value_name = "NS", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) namespace: Vec<String>,

    /// Mirror only the Secrets that match this label selector
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,

    /// Mirror only the Secrets that match this field selector
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,

    /// Mirror exactly the Secrets and ConfigMaps that this Gateway's listeners refer to, instead of
    /// --namespace and the selectors
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) gateway: Option<String>,

    /// Also mirror the ConfigMaps with CA bundles that match this label selector; "" matches all
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) configmaps: Option<String>,

    /// The keys of a ConfigMap that may hold its bundle; the first one that exists is used
    /// [default: ca.crt, ca-bundle.crt, trust-bundle.pem, root-certs.pem]
    #[arg(long, value_name = "KEY", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) configmap_key: Vec<String>,

    /// Also write this key of a Secret, as this file
    #[arg(long, value_name = "KEY=FILE")]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) key: Vec<String>,

    /// The folder in which each Secret gets a credential folder; a root of sds-agent
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// The name of a Secret's folder, with {name} and {namespace} [default: {name}]
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) name_template: Option<String>,

    /// The name of a ConfigMap's folder [default: {name}-cacert]
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) configmap_name_template: Option<String>,

    /// The owner of folders and files, by name or number; requires root
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<Account>,

    /// The group, by name or number, that may read folders and files
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<Account>,

    /// The mode of files [default: 0640]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    #[serde(deserialize_with = "mode")]
    pub(crate) file_mode: Option<u32>,

    /// The mode of folders [default: 0750]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    #[serde(deserialize_with = "mode")]
    pub(crate) dir_mode: Option<u32>,

    /// Hold back removals of more than this share of the folders [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) mass_removal_percent: Option<u8>,

    /// The time in which removals are counted together [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) mass_removal_window: Option<Duration>,

    /// Hold back no removals, and remove folders that are held back
    #[arg(long)]
    pub(crate) allow_mass_removal: bool,

    /// Take over the folders that were mirrored from another cluster
    #[arg(long)]
    pub(crate) allow_cluster_change: bool,

    /// Do one pass and exit
    #[arg(long)]
    pub(crate) once: bool,

    /// Print what would change, change nothing, and exit
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How often the files on disk are compared with what was written [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub(crate) check_interval: Option<Duration>,

    /// Report each refused Secret or ConfigMap as a Kubernetes Event on it
    #[arg(long)]
    pub(crate) events: bool,

    /// A Unix socket for metrics, health, `sds-mirror status` and `sds-mirror release`
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,

    /// A loopback address for metrics and health, such as 127.0.0.1:9465
    #[arg(long, value_name = "ADDRESS", value_parser = parse_tcp)]
    #[serde(deserialize_with = "loopback")]
    pub(crate) admin_tcp: Option<SocketAddr>,

    /// What is logged: a level, or levels by module [default: $RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogFilter>,

    /// The format of a log line [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

impl Options {
    /// The options of the file at `path`. Relative paths in it start from its folder.
    ///
    /// # Errors
    /// The file can't be read, or its content is not valid.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = config::read(path).map_err(|error| error.to_string())?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let parsed = config::parse_flat(path, text);
        let mut options: Self = parsed.map_err(|error| error.to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [
            &mut options.kubeconfig,
            &mut options.ca_file,
            &mut options.token_file,
            &mut options.output,
            &mut options.admin_socket,
        ] {
            *path = path.take().map(|path| folder.join(path));
        }
        Ok(options)
    }

    /// These options, completed by those of `file`.
    pub(crate) fn or(self, file: Self) -> Self {
        let first = |a: Vec<String>, b| if a.is_empty() { b } else { a };
        macro_rules! complete {
            (values: $($value:ident)*; lists: $($list:ident)*; switches: $($switch:ident)*;) => {
                Self {
                    $($value: self.$value.or(file.$value),)*
                    $($list: first(self.$list, file.$list),)*
                    $($switch: self.$switch || file.$switch,)*
                }
            };
        }
        complete! {
            values: kubeconfig context server ca_file token_file selector field_selector gateway
                configmaps output name_template configmap_name_template owner group file_mode
                dir_mode mass_removal_percent mass_removal_window check_interval admin_socket
                admin_tcp log_level log_format;
            lists: namespace configmap_key key;
            switches: allow_mass_removal allow_cluster_change once dry_run events;
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    parsed(deserializer, parse_mode)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parsed(deserializer, parse_duration)
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    parsed(deserializer, parse_tcp)
}

fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// The options of these arguments.
#[cfg(test)]
pub(crate) fn from_arguments(arguments: &[&str]) -> Result<Options, clap::Error> {
    use clap::FromArgMatches;
    let arguments = ["sds-mirror"].iter().chain(arguments);
    let matches = command().try_get_matches_from(arguments)?;
    Options::from_arg_matches(&matches)
}

#[cfg(test)]
fn command() -> clap::Command {
    use clap::Args;
    Options::augment_args(clap::Command::new("sds-mirror"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(text, Path::new("/etc/m/m.toml"))
    }

    #[test]
    fn the_example_has_every_key_with_a_valid_value() {
        let example = include_str!("../../../examples/sds-mirror.toml");
        parse(example).unwrap();
        let all: String = example
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        parse(&all).unwrap();
        let keys: toml::Table = toml::from_str(&all).unwrap();
        for argument in command().get_arguments() {
            let key = argument.get_id().as_str();
            assert!(keys.contains_key(key), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_key() {
        let message = parse("output = \"a\"\nnamespaces = \"b\"\n").unwrap_err();
        assert_eq!(
            message,
            "/etc/m/m.toml:2:1: there is no key `namespaces`; did you mean `namespace`?"
        );
    }

    #[test]
    fn the_command_line_takes_precedence_and_paths_of_the_file_start_from_its_folder() {
        let file = parse("output = \"out\"\nnamespace = \"a\"\ngroup = 7\nonce = true").unwrap();
        let cli = from_arguments(&["--namespace", "b,c", "--namespace", "d"]).unwrap();
        let both = cli.or(file);
        assert_eq!(both.namespace, ["b", "c", "d"]);
        assert_eq!(both.output.unwrap(), Path::new("/etc/m/out"));
        assert_eq!(both.group, Some(Account::Id(7)));
        assert!(both.once);
    }

    #[test]
    fn metrics_are_only_served_on_loopback() {
        assert!(parse("admin_tcp = \"0.0.0.0:1\"").is_err());
        assert!(parse("admin_tcp = \"127.0.0.1:1\"").is_ok());
        assert!(from_arguments(&["--admin-tcp", "10.0.0.1:1"]).is_err());
    }

    #[test]
    fn modes_and_durations_have_the_same_form_in_file_and_command_line() {
        let file = parse("file_mode = \"0600\"\nmass_removal_window = \"5m\"").unwrap();
        let cli = ["--file-mode", "0600", "--mass-removal-window", "5m"];
        let cli = from_arguments(&cli).unwrap();
        for options in [file, cli] {
            assert_eq!(options.file_mode, Some(0o600));
            assert_eq!(options.mass_removal_window, Some(Duration::from_secs(300)));
        }
        assert!(parse("file_mode = \"rw\"").is_err());
        assert!(
            parse("mass_removal_percent = 0").is_ok(),
            "checked with the rest"
        );
    }
}
