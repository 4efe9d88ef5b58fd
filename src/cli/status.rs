//! `sds-agent status`: what the running agent serves, to whom, until when.

mod clients;
mod table;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use sds_agent::admin::state::State;
use sds_agent::text::escape_json;

use super::client;
use super::output;

const EXAMPLES: &str = "\
Examples:
  What is served, trouble first
      sds-agent status
  The same, drawn anew each second until Ctrl-C
      sds-agent status --watch
  The secrets that some Envoy refused, with its own words
      sds-agent status --output json | jq -r '.secrets[] | .name as $name |
          .subscribers[] | select(.answer == \"nack\") | \"\\($name) \\(.node): \\(.error)\"'
  What ends first
      sds-agent status --output json | jq -r '.secrets | sort_by(.not_after)[0:5][] |
          \"\\(.not_after) \\(.name)\"'

States: rejected (what is in the folder can't be served, and nothing is), last good (likewise, and the
last good content is still served), nacked (an Envoy refused it), expired, not valid yet, expires
soon, warning, waiting (asked for, and does not exist), ok, hidden (an earlier root has the name),
passed over (not served on purpose).

Exit codes: 0 the agent answered, whatever it said; 2 it could not be asked, or wrong command line.
`sds-agent check` has an exit code for trouble.";

/// The options of `status`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The form of the state
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,

    /// Draw it anew each second, until Ctrl-C; as JSON, a line each
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    admin_socket: client::AdminSocket,

    /// What `--admin-socket` was called before.
    #[arg(long, value_name = "PATH", hide = true)]
    socket: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For programs, described in docs/status.md
    Json,
}

pub(crate) fn run(args: Args) -> ExitCode {
    if args.socket.is_some() {
        output::say("`--socket` is called `--admin-socket` now; write that");
    }
    let socket = match args.socket.map_or_else(|| args.admin_socket.path(), Ok) {
        Ok(socket) => socket,
        Err(error) => return output::fail(error),
    };
    let shown = async {
        if args.watch {
            return watch::run(&socket, args.output).await;
        }
        match state(&socket).await {
            Ok(state) => output::print(render(&state, args.output).as_bytes()),
            Err(error) => output::fail(error),
        }
    };
    client::block_on(shown).unwrap_or_else(output::fail)
}

async fn state(socket: &Path) -> Result<State, String> {
    let json = client::ask(socket, "/status").await?;
    serde_json::from_slice(&json).map_err(|error| {
        format!(
            "the answer on {} is not understood: {error}; is the agent of the same version as this \
             program? `curl --unix-socket {0} http://localhost/status` shows it",
            socket.display()
        )
    })
}

fn render(state: &State, form: Form) -> String {
    match form {
        Form::Table => table::of(state, output::colour()),
        Form::Json => {
            // Nothing in it can fail to be JSON: no map has keys other than strings.
            let mut text = escape_json(&serde_json::to_string_pretty(state).unwrap_or_default());
            text.push('\n');
            text
        }
    }
}
