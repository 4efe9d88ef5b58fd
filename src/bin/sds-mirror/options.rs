//! The command line and the configuration file: the same options in both, the command line wins.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use sds_agent::config::{Account, LogFilter, LogFormat, parse_tcp};
use serde::{Deserialize, Deserializer};

/// Keeps credential folders in step with Secrets of a Kubernetes cluster
///
/// Each Secret of type kubernetes.io/tls, or Opaque with cert/key or cacert, becomes a folder below
/// --output, from which sds-agent serves it to Envoy. What is on disk stays while the cluster is away.
#[derive(Parser)]
#[command(name = "sds-mirror", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// A TOML file with these options as keys (name_template for --name-template)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) options: Options,
}

const EXAMPLES: &str = "\
Examples:
  With a kubeconfig, one namespace:
    sds-mirror --kubeconfig /etc/sds-mirror/kubeconfig --namespace gateways \\
        --output /var/lib/sds-mirror/credentials
  With a service account's token, several namespaces, those Secrets that carry a label:
    sds-mirror --server https://10.0.0.1:6443 --ca-file ca.crt --token-file token \\
        --namespace shop,blog --name-template '{namespace}.{name}' --selector mirror=yes \\
        --output /var/lib/sds-mirror/credentials
  One pass, for a timer or a script:
    sds-mirror --config /etc/sds-mirror/sds-mirror.toml --once

Exit codes: 0 all is mirrored, 1 (--once) something was refused or could not be written,
2 could not run.";

/// Everything that can be said to the program, as it was said.
#[derive(clap::Args, Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Options {
    /// How to reach the cluster, and as whom. Without this and without --server: $KUBECONFIG,
    /// ~/.kube/config, or the service account of the pod that this runs in
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig; its current one by default
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// The API server's URL, in the place of a kubeconfig
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,

    /// The CA certificates that the API server is checked against; goes with --server
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// A file with a bearer token, read again for every request, so that it may be rotated
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// The namespaces whose Secrets are mirrored
    #[arg(long, value_name = "NS", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) namespace: Vec<String>,

    /// Mirror those Secrets alone that this label selector selects
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,

    /// Mirror those Secrets alone that this field selector selects
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) field_selector: Option<String>,

    /// The folder that gets a credential folder for each Secret; sds-agent's --credentials
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// The name of a Secret's folder, of {name} and {namespace} [default: {name}]
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) name_template: Option<String>,

    /// The group, by name or number, that may read folders and files
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<Account>,

    /// Remove folders even when more than half of them would go at once
    #[arg(long)]
    pub(crate) allow_mass_removal: bool,

    /// Take over the folders that were mirrored from another cluster
    #[arg(long)]
    pub(crate) allow_cluster_change: bool,

    /// Do one pass and end
    #[arg(long)]
    pub(crate) once: bool,

    /// A Unix socket for metrics and health
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,

    /// A loopback address for metrics and health, such as 127.0.0.1:9465
    #[arg(long, value_name = "ADDRESS", value_parser = parse_tcp)]
    #[serde(deserialize_with = "loopback")]
    pub(crate) admin_tcp: Option<SocketAddr>,

    /// What is logged: a level, or levels by module; RUST_LOG where this is not given
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogFilter>,

    /// The form of a log line [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

impl Options {
    /// The options of the file at `path`. Relative paths in it start from its folder.
    ///
    /// # Errors
    /// A file that can't be read, and whatever in it can't be, with its line.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("can't read the configuration {}: {error}", path.display()))?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, String> {
        let wrong = |error: toml::de::Error| {
            let hint = nearest_key(error.message())
                .map_or_else(String::new, |key| format!("did you mean `{key}`?\n"));
            format!("the configuration {}: {error}{hint}", path.display())
        };
        let mut options: Self = toml::from_str(text).map_err(wrong)?;
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

    /// These options, and those of `file` where these say nothing.
    pub(crate) fn or(self, file: Self) -> Self {
        let namespace = if self.namespace.is_empty() {
            file.namespace
        } else {
            self.namespace
        };
        Self {
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            context: self.context.or(file.context),
            server: self.server.or(file.server),
            ca_file: self.ca_file.or(file.ca_file),
            token_file: self.token_file.or(file.token_file),
            namespace,
            selector: self.selector.or(file.selector),
            field_selector: self.field_selector.or(file.field_selector),
            output: self.output.or(file.output),
            name_template: self.name_template.or(file.name_template),
            group: self.group.or(file.group),
            allow_mass_removal: self.allow_mass_removal || file.allow_mass_removal,
            allow_cluster_change: self.allow_cluster_change || file.allow_cluster_change,
            once: self.once || file.once,
            admin_socket: self.admin_socket.or(file.admin_socket),
            admin_tcp: self.admin_tcp.or(file.admin_tcp),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
        }
    }
}

/// The key nearest to the unknown one that serde's `message` names.
fn nearest_key(message: &str) -> Option<String> {
    let mut words = message.strip_prefix("unknown field ")?.split('`');
    let unknown = words.nth(1)?;
    let known = words.skip(1).step_by(2);
    known
        .max_by(|a, b| {
            strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b))
        })
        .map(str::to_owned)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

fn loopback<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_tcp(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(text, Path::new("/etc/m/m.toml"))
    }

    #[test]
    fn every_option_but_config_is_a_key() {
        use clap::CommandFactory;
        let message = parse("no_such_key = 1").unwrap_err();
        for argument in Cli::command().get_arguments() {
            let key = argument.get_id().as_str();
            if !["config", "help", "version"].contains(&key) {
                assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
            }
        }
    }

    #[test]
    fn the_example_has_every_key_and_each_is_good() {
        use clap::CommandFactory;
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
        for argument in Cli::command().get_arguments() {
            let key = argument.get_id().as_str();
            let is_key = !["config", "help", "version"].contains(&key);
            assert_eq!(keys.contains_key(key), is_key, "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_key() {
        let message = parse("output = \"a\"\nnamespaces = \"b\"\n").unwrap_err();
        assert!(message.contains("/etc/m/m.toml"), "{message}");
        assert!(message.contains("line 2"), "{message}");
        assert!(message.contains("did you mean `namespace`?"), "{message}");
    }

    #[test]
    fn the_command_line_wins_and_paths_of_the_file_start_from_its_folder() {
        let file = parse("output = \"out\"\nnamespace = \"a\"\ngroup = 7\nonce = true").unwrap();
        let cli = Cli::parse_from(["sds-mirror", "--namespace", "b,c", "--namespace", "d"]);
        let both = cli.options.or(file);
        assert_eq!(both.namespace, ["b", "c", "d"]);
        assert_eq!(both.output.unwrap(), Path::new("/etc/m/out"));
        assert_eq!(both.group, Some(Account::Id(7)));
        assert!(both.once);
    }

    #[test]
    fn the_metrics_stay_on_loopback() {
        assert!(parse("admin_tcp = \"0.0.0.0:1\"").is_err());
        assert!(parse("admin_tcp = \"127.0.0.1:1\"").is_ok());
        assert!(Cli::try_parse_from(["sds-mirror", "--admin-tcp", "10.0.0.1:1"]).is_err());
    }
}
