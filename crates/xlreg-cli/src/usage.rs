//! Wrong usage: told with the usage of the very subcommand, and with what to do instead.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, Error};
use xlreg::tokens::TOKEN_PREFIX;

use crate::exit::Code;

const CREDENTIALS_TIP: &str = "`xlreg serve` prints where a registry's credentials are; \
                               name that file here, or in XLREG_REGISTRY";

/// What is left of a secret with fewer letters behind its prefix, of 32, may be told.
const SECRET_LETTERS_MIN: usize = 8;

const PROGRAM_TIP: &str = "the program and its arguments stand last, after `--`";

/// Prints what clap has to say: help and version to stdout, an error to stderr.
pub(crate) fn report(mut error: Error) -> Code {
    if error.use_stderr() {
        hide_secrets(&mut error);
        let command = subcommand();
        if error.get(ContextKind::Suggested).is_none()
            && let Some(tip) = tip(&error, command.get_name())
        {
            let tips = ContextValue::StyledStrs(vec![tip.into()]);
            error.insert(ContextKind::Suggested, tips);
        }
        // For a bad value clap leaves it out.
        if error.get(ContextKind::Usage).is_none() {
            let usage = ContextValue::StyledStr(command.clone().render_usage());
            error.insert(ContextKind::Usage, usage);
        }
    }
    // Whoever closed the pipe has read enough.
    let _unread = error.print();
    if error.use_stderr() { Code::Usage } else { Code::Done }
}

/// An invitation in the wrong place is misuse, and no reason to have its token in a log.
fn hide_secrets(error: &mut Error) {
    let kinds =
        [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    for kind in kinds {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && text.contains(TOKEN_PREFIX)
        {
            error.insert(kind, ContextValue::String("(a secret)".to_owned()));
        }
    }
}

/// The text without the secrets of tokens in it, whole or cut.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut parts = text.split(TOKEN_PREFIX);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        // The prefix alone is none.
        if part.len() - rest.len() < SECRET_LETTERS_MIN {
            kept.push_str(TOKEN_PREFIX);
            kept.push_str(part);
        } else {
            kept.push_str("(a secret)");
            kept.push_str(rest);
        }
    }
    kept
}

/// Prints a misuse that only the command itself can see.
pub(crate) fn complain(message: &str) -> Code {
    let _unread = subcommand().error(ErrorKind::ArgumentConflict, message).print();
    Code::Usage
}

fn tip(error: &Error, subcommand: &str) -> Option<&'static str> {
    let missing = |what: &str| match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(args)) => args.iter().any(|arg| arg.starts_with(what)),
        _ => false,
    };
    let runs_programs = ["run", "join"].contains(&subcommand);
    match error.kind() {
        ErrorKind::MissingRequiredArgument if missing("--registry") || missing("<FILE>") => {
            Some(CREDENTIALS_TIP)
        }
        ErrorKind::MissingRequiredArgument if missing("<CMD>") => Some(PROGRAM_TIP),
        ErrorKind::UnknownArgument if runs_programs => Some(PROGRAM_TIP),
        _ => None,
    }
}

/// The subcommand that the command line names, as far down as it names one.
fn subcommand() -> Command {
    let mut command = crate::Cli::command();
    command.build();
    for word in std::env::args_os().skip(1) {
        let Some(below) = word.to_str().and_then(|word| command.find_subcommand(word)) else {
            break;
        };
        command = below.clone();
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_left_out_wherever_it_stands() {
        let secret = format!("xlt_{}", "a2".repeat(16));
        let hidden = without_secrets(&format!("reading {secret}/x?token={secret}: no such file"));
        assert_eq!(hidden, "reading (a secret)/x?token=(a secret): no such file");
        assert_eq!(without_secrets(&secret[..20]), "(a secret)");
        for harmless in ["", "nothing", "a join token begins with \"xlt_\"", "cluster xlt_test"] {
            assert_eq!(without_secrets(harmless), harmless);
        }
    }
}
