//! The checked settings of the mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sds_agent::config::{Account, LogFilter, LogFormat};
use sds_agent::peer;

use crate::access::Access;
use crate::name::{NameTemplate, check_key};
use crate::options::Options;
use crate::select::{CONFIGMAP_KEYS, LEAVE_OUT, Rules};

/// The default mode of files: the mirror can write, the group can read.
const FILE_MODE: u32 = 0o640;
/// The default mode of folders.
const DIR_MODE: u32 = 0o750;

/// The settings, valid and consistent.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) access: Access,
    pub(crate) selection: Selection,
    pub(crate) rules: Arc<Rules>,
    pub(crate) output: PathBuf,
    pub(crate) rights: Rights,
    pub(crate) guard: Guard,
    pub(crate) allow_cluster_change: bool,
    pub(crate) once: bool,
    pub(crate) dry_run: bool,
    pub(crate) check_interval: Duration,
    pub(crate) events: bool,
    pub(crate) admin_socket: Option<PathBuf>,
    pub(crate) admin_tcp: Option<SocketAddr>,
    pub(crate) log_level: Option<LogFilter>,
    pub(crate) log_format: LogFormat,
}

/// Which objects are mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The objects in these namespaces that match the selectors.
    Namespaces {
        namespaces: BTreeSet<String>,
        selector: Option<String>,
        field_selector: String,
        /// The label selector of ConfigMaps; `None` if they are not mirrored.
        configmaps: Option<String>,
    },
    /// The objects that the listeners of this Gateway refer to.
    Gateway { namespace: String, name: String },
}

/// The owner, group and modes of folders and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) file_mode: u32,
    pub(crate) dir_mode: u32,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            owner: None,
            group: None,
            file_mode: FILE_MODE,
            dir_mode: DIR_MODE,
        }
    }
}

/// Which removals are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Removals of more than this share of the folders are held back.
    pub(crate) percent: u8,
    /// The time in which removals are counted together.
    pub(crate) window: Duration,
    /// No removal is held back.
    pub(crate) is_off: bool,
}

impl Config {
    /// Checks `options`.
    ///
    /// # Errors
    /// An option is missing, is invalid, or contradicts another one.
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let percent = options.mass_removal_percent.unwrap_or(50);
        if !(1..=100).contains(&percent) {
            return Err(format!(
                "mass_removal_percent is {percent}; give a number from 1 to 100"
            ));
        }
        let check_interval = options.check_interval.unwrap_or(Duration::from_secs(60));
        if check_interval < Duration::from_millis(100) {
            return Err("check_interval is too short; give 100ms or more".into());
        }
        Ok(Self {
            access: access(&options)?,
            selection: selection(&options)?,
            rules: Arc::new(rules(&options)?),
            rights: rights(&options)?,
            guard: Guard {
                percent,
                window: options
                    .mass_removal_window
                    .unwrap_or(Duration::from_secs(60)),
                is_off: options.allow_mass_removal,
            },
            output: options
                .output
                .ok_or("no output folder is given; give --output DIR")?,
            allow_cluster_change: options.allow_cluster_change,
            once: options.once || options.dry_run,
            dry_run: options.dry_run,
            check_interval,
            events: options.events,
            admin_socket: options.admin_socket,
            admin_tcp: options.admin_tcp,
            log_level: options.log_level,
            log_format: options.log_format.unwrap_or_default(),
        })
    }
}

fn selection(options: &Options) -> Result<Selection, String> {
    let Some(gateway) = &options.gateway else {
        return namespaces(options);
    };
    let selects = !options.namespace.is_empty()
        || options.selector.is_some()
        || options.field_selector.is_some()
        || options.configmaps.is_some();
    if selects {
        return Err(
            "--gateway selects the objects; give it without --namespace, --selector, --field-selector \
             and --configmaps"
                .into(),
        );
    }
    match gateway.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_subdomain(name) => {
            Ok(Selection::Gateway {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        _ => Err(format!(
            "{gateway:?} does not name a Gateway; write --gateway NAMESPACE/NAME"
        )),
    }
}

fn namespaces(options: &Options) -> Result<Selection, String> {
    let namespaces: BTreeSet<String> = options.namespace.iter().cloned().collect();
    if namespaces.is_empty() {
        return Err("no namespace is given; give --namespace NS, or --gateway NS/NAME".into());
    }
    if let Some(bad) = namespaces.iter().find(|namespace| !is_label(namespace)) {
        return Err(format!("{bad:?} is not the name of a namespace"));
    }
    Ok(Selection::Namespaces {
        namespaces,
        selector: options.selector.clone(),
        field_selector: match &options.field_selector {
            Some(selector) if !selector.is_empty() => format!("{selector},{LEAVE_OUT}"),
            _ => LEAVE_OUT.to_owned(),
        },
        configmaps: options.configmaps.clone(),
    })
}

fn rules(options: &Options) -> Result<Rules, String> {
    let template = |template: &Option<String>, default: &str| {
        NameTemplate::parse(template.as_deref().unwrap_or(default))
    };
    let mut keys = BTreeMap::new();
    for mapping in &options.key {
        let (key, file) = mapping.split_once('=').unwrap_or((mapping, mapping));
        check_key(key).map_err(|why| format!("--key {mapping}: the key {why}"))?;
        check_key(file).map_err(|why| format!("--key {mapping}: the file's name {why}"))?;
        if let Some((other, _)) = keys.iter().find(|(_, there)| *there == file) {
            return Err(format!(
                "--key {mapping}: {other} is already written as {file}; give each key its own file"
            ));
        }
        keys.insert(key.to_owned(), file.to_owned());
    }
    Ok(Rules {
        template: template(&options.name_template, "{name}")?,
        configmap_template: template(&options.configmap_name_template, "{name}-cacert")?,
        keys,
        configmap_keys: match options.configmap_key.is_empty() {
            true => CONFIGMAP_KEYS.map(str::to_owned).to_vec(),
            false => options.configmap_key.clone(),
        },
    })
}

fn rights(options: &Options) -> Result<Rights, String> {
    let file_mode = options.file_mode.unwrap_or(FILE_MODE);
    let dir_mode = options.dir_mode.unwrap_or(DIR_MODE);
    if file_mode & 0o117 != 0 || file_mode & 0o600 != 0o600 {
        return Err(format!(
            "the file mode {file_mode:04o} can't be used for private keys; give 0600, 0640 or 0660, \
             and let others read through --group"
        ));
    }
    if dir_mode & 0o002 != 0 || dir_mode & 0o700 != 0o700 {
        return Err(format!(
            "the folder mode {dir_mode:04o} can't be used; give one such as 0700, 0750 or 0755"
        ));
    }
    let id = |what: &str, account: &Option<Account>, id| {
        let account = account.as_ref();
        account.map(|account| number(what, account, id)).transpose()
    };
    Ok(Rights {
        owner: id("user", &options.owner, peer::user_id)?,
        group: id("group", &options.group, peer::group_id)?,
        file_mode,
        dir_mode,
    })
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
            Err("--ca-file requires --server; a kubeconfig has its own CA".into())
        }
        (Some(path), None) => Ok(Access::Kubeconfig {
            path: path.clone(),
            context,
            token_file,
        }),
        (None, Some(_)) if context.is_some() => Err(
            "--context can't be used with --server; it selects a context of a kubeconfig".into(),
        ),
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
        || format!("{text:?} is not the URL of an API server; write one as https://10.0.0.1:6443");
    let url: http::Uri = text.parse().map_err(|_| wrong())?;
    match url.scheme_str() {
        Some("https" | "http") => Ok(url),
        _ => Err(wrong()),
    }
}

/// Looks up the number of a user or group (`what`) in the user database.
fn number(
    what: &str,
    account: &Account,
    id: fn(&Account) -> io::Result<Option<u32>>,
) -> Result<u32, String> {
    match id(account) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!(
            "there is no {what} {account}; create it, or give a number"
        )),
        Err(error) => Err(format!("can't look up the {what} {account}: {error}")),
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

/// Whether this can be an object's name (an RFC 1123 subdomain).
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::from_arguments;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        Config::new(from_arguments(arguments).unwrap())
    }

    const MINIMUM: [&str; 4] = ["--namespace", "a", "--output", "/o"];

    #[test]
    fn missing_required_options_are_errors() {
        assert!(config(&MINIMUM).is_ok());
        let error = config(&["--output", "/o"]).unwrap_err();
        assert!(error.contains("--namespace"), "{error}");
        let error = config(&["--namespace", "a"]).unwrap_err();
        assert!(error.contains("--output"), "{error}");
    }

    #[test]
    fn invalid_and_contradicting_options_are_errors() {
        let cases: [(&[&str], &str); 15] = [
            (&["--namespace", "A_b"], "not the name of a namespace"),
            (&["--name-template", "x"], "lacks {name}"),
            (&["--configmap-name-template", "x"], "lacks {name}"),
            (&["--gateway", "a/b"], "without --namespace"),
            (&["--file-mode", "0644"], "private keys"),
            (&["--file-mode", "0400"], "private keys"),
            (&["--dir-mode", "0777"], "0750"),
            (&["--key", "a=../b"], "path separator"),
            (&["--key", "a=c", "--key", "b=c"], "its own file"),
            (&["--owner", "no-such-user-here"], "no user"),
            (&["--server", "10.0.0.1"], "not the URL"),
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
    fn a_field_selector_is_combined_with_the_excluded_types() {
        let fields = ["--field-selector", "metadata.name=a"];
        let config = config(&[&MINIMUM[..], &fields].concat()).unwrap();
        let Selection::Namespaces { field_selector, .. } = config.selection else {
            panic!("not the namespaces");
        };
        assert!(field_selector.starts_with("metadata.name=a,type!=helm"));
    }

    #[test]
    fn a_gateway_replaces_namespaces() {
        let gateway = |text: &str| config(&["--output", "/o", "--gateway", text]);
        let expected = Selection::Gateway {
            namespace: "infra".into(),
            name: "public.v2".into(),
        };
        assert_eq!(gateway("infra/public.v2").unwrap().selection, expected);
        for bad in [
            "infra",
            "infra/",
            "/public",
            "infra/public/x",
            "Infra/public",
        ] {
            assert!(
                gateway(bad).unwrap_err().contains("NAMESPACE/NAME"),
                "{bad}"
            );
        }
    }
}
