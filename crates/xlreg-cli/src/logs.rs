//! Logs, on stderr.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How a server logs.
#[derive(Args, Clone, Debug)]
pub(crate) struct Logs {
    /// Log as text, or as JSON with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "XLREG_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log from this level on: error, warn, info, debug or trace; or a filter such as
    /// xlreg_server=debug
    #[arg(long, value_name = "LEVEL", default_value = "info,rustls=error", value_parser = filter, env = "XLREG_LOG")]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// A level, or a filter that names what it is for: a word alone that is no level would silence all.
fn filter(text: &str) -> Result<String, String> {
    let level = text.parse::<LevelFilter>().is_ok();
    if (level || text.contains('=')) && EnvFilter::try_new(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("a level is off, error, warn, info, debug or trace; a filter is like xlreg_server=debug,info"
        .to_owned())
}

impl Logs {
    /// Whether programs read them, so that nothing else may stand between.
    pub(crate) fn are_json(&self) -> bool {
        self.log_format == LogFormat::Json
    }

    /// Starts logging for the rest of the process.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log)?;
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            // By default a log that nobody reads any more is complained of on stderr, by a panic.
            .log_internal_errors(false)
            .with_writer(io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(colour).init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}
