//! Why a template is refused.

use std::fmt;

use thiserror::Error;

use super::{LISTS, OWN, Offer};

/// How alike a word must be to what we know, to be taken for a slip: 0 to 1, by Jaro. At 0.8,
/// `hostname` makes one think of `host`, and awk's `print` not of `port`.
const ALIKE_MIN: f64 = 0.8;

/// A placeholder that can't be filled in, with its place in the text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A word that stands for nothing.
    #[error(
        "{{{word} at {at}: there is no placeholder {{{word}}}{}; known are {known}; \
         to have the brace as text, write \\{{{word}",
        did_you_mean(*.closest)
    )]
    Unknown {
        /// The word.
        word: String,
        /// Where its brace is.
        at: At,
        /// What was probably meant.
        closest: Option<&'static str>,
        /// All that would have been understood.
        known: String,
    },
    /// A placeholder for an endpoint that members don't have.
    #[error(
        "{{{word}}} at {at}: members have no endpoint of this number; run with --endpoints \
         {endpoints}, or to have the brace as text, write \\{{{word}"
    )]
    NoEndpoint {
        /// The word.
        word: &'static str,
        /// Where its brace is.
        at: At,
        /// How many endpoints a member would have to have.
        endpoints: usize,
    },
    /// A placeholder for a TLS file, where members have none.
    #[error(
        "{{{word}}} at {at}: members have files for TLS only with --tls; add that, or to have the \
         brace as text, write \\{{{word}"
    )]
    NoTls {
        /// The word.
        word: &'static str,
        /// Where its brace is.
        at: At,
    },
    /// A placeholder for what is known only once all have joined.
    #[error(
        "{{{word}}} at {at}: the program joins the cluster by itself, so before it starts there \
         are only {known}; leave the rest to the program, or to have the brace as text, write \
         \\{{{word}"
    )]
    NoRoster {
        /// The word.
        word: &'static str,
        /// Where its brace is.
        at: At,
        /// All that would have been understood.
        known: String,
    },
    /// One of a member's own placeholders with something else than `}` behind its word.
    #[error(
        "{{{word} at {at} is not closed: write {{{word}}} for the member's own, \
         or \\{{{word} to have the brace as text"
    )]
    NotClosed {
        /// The word.
        word: &'static str,
        /// Where its brace is.
        at: At,
    },
    /// A list without a separator or without a pattern.
    #[error(
        "{{{keyword} at {at} needs a separator without braces and a pattern, each after one space: \
         {{{keyword} , {{endpoint}}}} gives all endpoints with commas between; \
         to have the brace as text, write \\{{{keyword}"
    )]
    IncompleteList {
        /// The list's keyword.
        keyword: &'static str,
        /// Where its brace is.
        at: At,
    },
    /// An escape that separators don't have.
    #[error(
        "the separator of {{{keyword} at {at} has a \\ that says nothing: there are \\n for a \
         newline, \\t for a tab, \\s for a space and \\\\ for a backslash"
    )]
    Separator {
        /// The list's keyword.
        keyword: &'static str,
        /// Where its brace is.
        at: At,
    },
    /// A list without an end.
    #[error(
        "{{{keyword} at {at} is not closed: there is no }} left for it; write \\{{ for each brace \
         in its pattern that is text and has no other half"
    )]
    OpenList {
        /// The list's keyword.
        keyword: &'static str,
        /// Where its brace is.
        at: At,
    },
    /// A list, or one's own file, in a list.
    #[error(
        "{{{word} at {at} can't be in a list, where placeholders are for one listed member; \
         to have the brace as text, write \\{{{word}"
    )]
    InList {
        /// The word.
        word: &'static str,
        /// Where its brace is.
        at: At,
    },
}

/// A place in a text, both numbers from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The line.
    pub line: usize,
    /// The character in this line.
    pub character: usize,
}

impl At {
    /// The place of the byte at `offset` in `text`.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        Self { line: before.matches('\n').count() + 1, character: line.chars().count() + 1 }
    }
}

/// Arguments have one line, and of it nobody needs the number.
impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            1 => write!(f, "character {}", self.character),
            line => write!(f, "line {line}, character {}", self.character),
        }
    }
}

/// The refusal of a word that stands for nothing.
pub(super) fn unknown(word: &str, at: At, offer: Offer) -> TemplateError {
    let alike = |known: &&str| strsim::jaro(word, known);
    let closest = words(offer)
        .filter(|known| alike(known) >= ALIKE_MIN)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)));
    TemplateError::Unknown { word: word.to_owned(), at, closest, known: known(offer) }
}

/// The refusal of a word that only a roster could give a meaning.
pub(super) fn no_roster(word: &'static str, at: At, offer: Offer) -> TemplateError {
    TemplateError::NoRoster { word, at, known: known(offer) }
}

/// All words on offer, keywords of lists last.
fn words(offer: Offer) -> impl Iterator<Item = &'static str> {
    let own = OWN.into_iter().filter(move |(_, own)| offer.has(*own)).map(|(word, _)| word);
    let lists = LISTS.into_iter().filter(move |_| offer.roster).map(|(keyword, _)| keyword);
    own.chain(lists)
}

/// All that is on offer, as one would write it.
fn known(offer: Offer) -> String {
    let is_list = |word| LISTS.iter().any(|(keyword, _)| *keyword == word);
    let written = |word| match is_list(word) {
        true => format!("{{{word} SEPARATOR PATTERN}}"),
        false => format!("{{{word}}}"),
    };
    words(offer).map(written).collect::<Vec<_>>().join(", ")
}

fn did_you_mean(closest: Option<&str>) -> String {
    closest.map(|closest| format!(" (did you mean {{{closest}}}?)")).unwrap_or_default()
}
