//! `sds-agent check`: checks folders as the agent does, without a running agent.

mod exposures;
mod rights;
mod roots;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::builder::{PathBufValueParser, TypedValueParser};
use sds_agent::agent::read_once;
use sds_agent::config::{Config, Options};
use sds_agent::report::{Report, Subscribers};

use super::client::ConfigFile;
use super::output;
use super::report::{self, Canvas, Form, Subject};

const EXAMPLES: &str = "\
Examples:
  All that the agent is configured to serve
      sds-agent check
  A folder of credential folders, or a single one of them
      sds-agent check ./credentials
      sds-agent check /etc/letsencrypt/live/site.example.com
  From cron, with mail only when something needs attention
      sds-agent check --warn-days 14 > /tmp/report ||
          mail -s certificates root < /tmp/report
  As a plugin for Nagios, Icinga and the like
      sds-agent check --output line
  The names of all credentials that are rejected
      sds-agent check --output json |
          jq -r '.credentials[] |
              select(.state == \"rejected\").name'

DIR is a credential folder if it has a file with a name that is used in credential folders, such \
as tls.crt, and no folder with such files; otherwise it is a folder of credential folders. The \
files are read and checked exactly as by the agent. Run it as the agent's user to see what the \
agent sees: sudo -u sds-agent sds-agent check

States: rejected, expired, expiring, ok, skipped (intentionally not served).

Exit codes: 0 everything is ok; 1 something is expiring; 2 something is rejected or expired, a root is \
missing or can't be read, or the command line or the configuration is wrong.";

/// The options of `check`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    // Absolute, so that remedies can be run elsewhere.
    /// Folders of credential folders, or credential folders [default: the roots in the configuration]
    #[arg(value_name = "DIR", value_parser = PathBufValueParser::new().try_map(std::path::absolute))]
    folders: Vec<PathBuf>,

    #[command(flatten)]
    file: ConfigFile,

    /// A certificate counts as expiring at most this many days before its end, whatever the configuration sets
    /// [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    warn_days: Option<u32>,

    /// The form of the report
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let mut options = Options::default();
    options.warn_days = args.warn_days;
    let config = match Config::load(args.file.config.as_deref(), &options) {
        Ok(config) => config,
        Err(error) => return report::fail(error, args.output),
    };
    for warning in &config.warnings {
        output::say(format_args!("warning: {warning}"));
    }
    let report = checked(&args.folders, config);
    let subject = Subject::Files(&report);
    let text = match args.output {
        Form::Table => subject.text(Canvas::stdout()),
        Form::Json => report::json(&report),
        Form::Line => subject.line(),
    };
    let printed = output::print(text.as_bytes());
    if rights::are_missing(&report) {
        output::say(rights::hint());
    }
    if printed == ExitCode::SUCCESS {
        subject.exit_code()
    } else {
        printed
    }
}

/// The report on `folders`, or on the configured roots when there is none.
fn checked(folders: &[PathBuf], config: Config) -> Report {
    let (config, only, configured) = roots::chosen(folders, config);
    let snapshot = read_once(&config, &only);
    let mut report = Report::of(&snapshot, SystemTime::now(), Subscribers::new());
    exposures::warn(&mut report, &snapshot, &configured, &config);
    report
}
