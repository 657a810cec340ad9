//! Logs, on stderr.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How a server logs.
#[derive(Args, Clone, Debug)]
pub(crate) struct Logs {
    /// Log as text, or as JSON with one object a line
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "XLREG_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log from this level on: error, warn, info, debug or trace; or a filter such as
    /// xlreg_server=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "XLREG_LOG")]
    log: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Logs {
    /// Starts logging for the rest of the process.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log)?;
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(colour).init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
        Ok(())
    }
}
