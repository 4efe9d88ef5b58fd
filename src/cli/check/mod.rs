//! `sds-agent check`: what the agent would make of folders, without an agent.

mod json;
mod survey;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::ValueEnum;
use sds_agent::config::{Config, Options};

use self::survey::Survey;
use super::client::ConfigFile;
use super::output;

const EXAMPLES: &str = "\
Examples:
  All that the agent is configured to serve
      sds-agent check
  A folder of credential folders, or a single credential folder
      sds-agent check ./credentials
      sds-agent check /etc/letsencrypt/live/site.example.com
  From cron, with mail only when something needs a hand within two weeks
      sds-agent check --warn-days 14 > /tmp/report || mail -s certificates root < /tmp/report
  The names of all credentials that are broken
      sds-agent check --output json | jq -r '.credentials[] | select(.state == \"broken\").name'

DIR is a single credential folder if it holds a file that one may have, such as tls.crt, and a folder
of such folders otherwise. The files are read and judged as the agent does it, so run it as the
agent's user to see what the agent sees: sudo -u sds-agent sds-agent check

Exit codes: 0 all is good, or worth a warning at most; 1 something is broken, or expires within
--warn-days; 2 a DIR could not be looked at, or wrong command line or configuration.";

/// The options of `check`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Folders of credential folders, or credential folders [default: those of the configuration]
    #[arg(value_name = "DIR")]
    folders: Vec<PathBuf>,

    #[command(flatten)]
    file: ConfigFile,

    /// How many days before its end a certificate counts as expiring at most, whatever the configuration
    /// sets [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    warn_days: Option<u32>,

    /// The form of the report
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "table")]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For programs, described in docs/check.md
    Json,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let options = Options {
        warn_days: args.warn_days,
        ..Options::default()
    };
    let config = match Config::load(args.file.config.as_deref(), &options) {
        Ok(config) => config,
        Err(error) => return output::fail(error),
    };
    let now = SystemTime::now();
    let survey = Survey::of(&args.folders, config, now);
    let report = match args.output {
        Form::Table => table::report(&survey, output::colour()),
        Form::Json => json::report(&survey),
    };
    let printed = output::print(report.as_bytes());
    if printed == ExitCode::SUCCESS {
        survey.exit_code()
    } else {
        printed
    }
}
