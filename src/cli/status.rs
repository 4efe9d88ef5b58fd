//! `sds-agent status`: what the running agent serves, with subscribers and expiry.

mod filter;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use sds_agent::admin::status::Status;

use self::filter::Filter;
use super::client;
use super::output;
use super::report::{self, Canvas, Form, Subject};

const EXAMPLES: &str = "\
Examples:
  What is served, the most urgent first
      sds-agent status
  One credential with its chain, files and clients
      sds-agent status site.example.com
  The same as the first, redrawn each second until Ctrl-C
      sds-agent status --watch
  What expires within two weeks, or has expired
      sds-agent status --expires-within 14d
  As a plugin for Nagios, Icinga and the like
      sds-agent status --fail --output line
  Secrets that an Envoy rejected, with its error message
      sds-agent status --output json |
          jq -r '.credentials[].secrets[] | .name as $name |
              .subscribers[] | select(.answer == \"nack\") |
              \"\\($name) \\(.node): \\(.error)\"'

States: rejected (the current files can't be used, the certificate is not valid yet, or an Envoy \
rejected it; the previous version is served, if there is one), expired, expiring, ok, skipped \
(intentionally not served).

Exit codes: 0 the agent answered; 2 it could not be reached, it has no credential NAME, or the \
command line is wrong. With --fail, as for monitoring plugins: 0 everything is ok; 1 something is \
expiring, or the configuration was refused when it was last read; 2 something is rejected or \
expired, a root is missing or can't be read, or the agent is not ready.";

/// The options of `status`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Filter,

    /// The form of the report
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,

    /// Exit with 1 when something is expiring, and with 2 when something is worse
    #[arg(long)]
    fail: bool,

    /// Redraw each second until Ctrl-C; as JSON, print one line each time
    #[arg(long, conflicts_with = "fail")]
    watch: bool,

    #[command(flatten)]
    admin_socket: client::AdminSocket,

    /// The former name of `--admin-socket`.
    #[arg(long, value_name = "PATH", hide = true)]
    socket: Option<PathBuf>,
}

/// What is requested, and how it is shown.
struct Request {
    socket: PathBuf,
    filter: Filter,
    form: Form,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let form = args.output;
    if args.socket.is_some() {
        output::say(
            "warning: `--socket` is now `--admin-socket`; the next release will not accept the old name",
        );
    }
    let request = match args.socket.map_or_else(|| args.admin_socket.path(), Ok) {
        Ok(socket) => Request {
            socket,
            filter: args.filter,
            form,
        },
        Err(error) => return report::fail(error, form),
    };
    let shown = async {
        if args.watch {
            return watch::run(&request).await;
        }
        match request.status().await {
            Ok(status) => print(&request, &status, args.fail),
            Err(error) => report::fail(error, form),
        }
    };
    client::block_on(shown).unwrap_or_else(|error| report::fail(error, form))
}

fn print(request: &Request, status: &Status, fail: bool) -> ExitCode {
    let printed = output::print(request.render(status, Canvas::stdout()).as_bytes());
    match fail && printed == ExitCode::SUCCESS {
        true => Subject::Agent(status).exit_code(),
        false => printed,
    }
}

impl Request {
    /// The requested part of the agent's state.
    async fn status(&self) -> Result<Status, String> {
        let mut status = client::status(&self.socket).await?;
        self.filter.apply(&mut status)?;
        Ok(status)
    }

    fn render(&self, status: &Status, canvas: Canvas) -> String {
        let subject = Subject::Agent(status);
        match self.form {
            Form::Table if self.filter.is_of_names() => subject.full(canvas),
            Form::Table => subject.text(canvas),
            Form::Json => report::json(status),
            Form::Line => subject.line(),
        }
    }
}
