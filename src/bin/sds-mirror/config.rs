//! What the program is told to do, after the options were checked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::Group;
use sds_agent::config::{Account, LogFilter, LogFormat};

use crate::access::Access;
use crate::name::NameTemplate;
use crate::options::{Cli, Options};
use crate::select::LEAVE_OUT;

/// Settings that can't be wrong in themselves.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) access: Access,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) selector: Option<String>,
    pub(crate) field_selector: String,
    pub(crate) output: PathBuf,
    pub(crate) template: Arc<NameTemplate>,
    pub(crate) group: Option<u32>,
    pub(crate) allow_mass_removal: bool,
    pub(crate) allow_cluster_change: bool,
    pub(crate) once: bool,
    pub(crate) admin_socket: Option<PathBuf>,
    pub(crate) admin_tcp: Option<SocketAddr>,
    pub(crate) log_level: Option<LogFilter>,
    pub(crate) log_format: LogFormat,
}

impl Config {
    /// The settings of the command line and of the file that it names.
    ///
    /// # Errors
    /// Whatever can't be, and what to write instead.
    pub(crate) fn new(cli: Cli) -> Result<Self, String> {
        let file = match &cli.config {
            Some(path) => Options::read(path)?,
            None => Options::default(),
        };
        Self::resolve(cli.options.or(file))
    }

    fn resolve(options: Options) -> Result<Self, String> {
        let namespaces: BTreeSet<String> = options.namespace.iter().cloned().collect();
        if namespaces.is_empty() {
            return Err("no namespace is given; give --namespace NS".into());
        }
        if let Some(bad) = namespaces.iter().find(|namespace| !is_label(namespace)) {
            return Err(format!("{bad:?} is no name of a namespace"));
        }
        let template = match &options.name_template {
            Some(template) => NameTemplate::parse(template)?,
            None => NameTemplate::default(),
        };
        Ok(Self {
            access: access(&options)?,
            namespaces,
            selector: options.selector,
            field_selector: match options.field_selector {
                Some(selector) if !selector.is_empty() => format!("{selector},{LEAVE_OUT}"),
                _ => LEAVE_OUT.to_owned(),
            },
            output: options
                .output
                .ok_or("no output folder is given; give --output DIR")?,
            template: Arc::new(template),
            group: options.group.as_ref().map(group_id).transpose()?,
            allow_mass_removal: options.allow_mass_removal,
            allow_cluster_change: options.allow_cluster_change,
            once: options.once,
            admin_socket: options.admin_socket,
            admin_tcp: options.admin_tcp,
            log_level: options.log_level,
            log_format: options.log_format.unwrap_or_default(),
        })
    }
}

fn access(options: &Options) -> Result<Access, String> {
    let token_file = options.token_file.clone();
    let context = options.context.clone();
    match (&options.kubeconfig, &options.server) {
        (Some(_), Some(_)) => Err(
            "both a kubeconfig and a server are given; give one of --kubeconfig and --server"
                .into(),
        ),
        (_, None) if options.ca_file.is_some() => {
            Err("--ca-file goes with --server; a kubeconfig names its CA itself".into())
        }
        (Some(path), None) => Ok(Access::Kubeconfig {
            path: path.clone(),
            context,
            token_file,
        }),
        (None, Some(_)) if context.is_some() => {
            Err("--context goes with a kubeconfig, not with --server".into())
        }
        (None, Some(url)) => Ok(Access::Server {
            url: server_url(url)?,
            ca_file: options.ca_file.clone(),
            token_file,
        }),
        (None, None) => Ok(Access::Infer {
            context,
            token_file,
        }),
    }
}

fn server_url(text: &str) -> Result<http::Uri, String> {
    let wrong =
        || format!("{text:?} is no URL of an API server; write one as https://10.0.0.1:6443");
    let url: http::Uri = text.parse().map_err(|_| wrong())?;
    match url.scheme_str() {
        Some("https" | "http") => Ok(url),
        _ => Err(wrong()),
    }
}

fn group_id(group: &Account) -> Result<u32, String> {
    match group {
        Account::Id(id) => Ok(*id),
        Account::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) => Err(format!(
                "there is no group {name:?}; create it, or give a number"
            )),
            Err(error) => Err(format!("can't look up the group {name:?}: {error}")),
        },
    }
}

/// Whether this can be a namespace's name (an RFC 1123 label).
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let all = ["sds-mirror"].iter().chain(arguments);
        Config::new(Cli::parse_from(all))
    }

    const MINIMUM: [&str; 4] = ["--namespace", "a", "--output", "/o"];

    #[test]
    fn what_must_be_given_is_asked_for() {
        assert!(config(&MINIMUM).is_ok());
        let error = config(&["--output", "/o"]).unwrap_err();
        assert!(error.contains("--namespace"), "{error}");
        let error = config(&["--namespace", "a"]).unwrap_err();
        assert!(error.contains("--output"), "{error}");
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let cases: [(&[&str], &str); 7] = [
            (&["--namespace", "A_b"], "no name of a namespace"),
            (&["--name-template", "x"], "lacks {name}"),
            (&["--server", "10.0.0.1"], "no URL"),
            (&["--kubeconfig", "k", "--server", "https://s"], "one of"),
            (&["--ca-file", "c"], "--server"),
            (&["--server", "https://s", "--context", "c"], "--context"),
            (&["--group", "no-such-group-here"], "no group"),
        ];
        for (more, expected) in cases {
            let error = config(&[&MINIMUM[..], more].concat()).unwrap_err();
            assert!(error.contains(expected), "{more:?}: {error}");
        }
    }

    #[test]
    fn the_fields_of_the_user_come_on_top_of_the_types_that_are_left_out() {
        let fields = ["--field-selector", "metadata.name=a"];
        let config = config(&[&MINIMUM[..], &fields].concat()).unwrap();
        assert!(
            config
                .field_selector
                .starts_with("metadata.name=a,type!=helm")
        );
    }
}
