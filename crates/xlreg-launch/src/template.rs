//! The same in any shape: placeholders in arguments, variables and files.
//!
//! For programs that know nothing of us, and have an option or a file for each thing they must be
//! told. docs/operations/templates.md says the same as this to users, with examples.
//!
//! **Where a placeholder begins.** At a `{` directly followed by a lower-case ASCII letter, unless
//! a `$` stands directly before it: `${name}` is the shell's. Every other brace is text, and so is
//! everything else. So JSON, `{}`, `{ x }` and `{{ x }}` stay as they are.
//!
//! **Backslashes** are text, but for a run of them directly before a brace that begins a
//! placeholder: each pair gives one backslash, and an odd one left makes the brace text. `\{name}`
//! is the text `{name}`.
//!
//! **Own placeholders** are the word in braces, `{name}`, and nothing else:
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{rank}` `{name}` `{id}` `{dir}` | the member's rank from 0, name, ID, own directory |
//! | `{size}` `{cluster}` `{cluster_id}` | how many members the cluster is for, its name, its ID |
//! | `{roster}` | the path of the member's `roster.json` |
//! | `{endpoint}` `{host}` `{port}` | the first endpoint, whole and in parts |
//! | `{endpoint1}` `{host1}` `{port1}` | the second endpoint |
//! | `{cert}` `{key}` `{roster_ca}` | the paths of the member's TLS files |
//!
//! A host is as [`Endpoint::host`](xlreg_core::Endpoint::host) gives it: an IPv6 address is without
//! its brackets.
//!
//! **Lists** are `{members SEP PATTERN}`, all members by rank, and `{peers SEP PATTERN}`, all but
//! oneself. After the keyword comes one space; then the separator, up to the next space; then the
//! pattern, up to the `}` that closes the list. What the pattern gives for each member is put
//! together with the separator between.
//!
//! - The *separator* has no braces, and may be empty: two spaces in a row. In it, `\n` is a newline,
//!   `\t` a tab, `\s` a space, `\\` a backslash; a backslash before anything else is refused.
//! - The *pattern* is not empty. Own placeholders in it stand for the listed member; `{roster}` and
//!   the TLS files, which are one's own, are refused. Other braces are text and nest, so the list ends at the first
//!   `}` that has no `{`. A brace without its other half is written `\{` or `\}`: here, the rule of
//!   backslashes holds before every brace.
//! - Lists don't nest.
//!
//! A word that is none of these is refused, rather than passed on to a program that would take it
//! literally.

mod error;
mod parse;
#[cfg(test)]
mod tests;

use std::path::Path;

use xlreg_core::Name;

pub use self::error::{At, TemplateError};
use crate::{Place, Places};

/// What there is to fill in, known before anything is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// How many endpoints each member has: 1 or 2.
    pub endpoints: usize,
    /// Whether the roster is known when the program starts. If not, the program joins by itself,
    /// and there are only `{name}`, `{cluster}`, `{size}` and `{dir}`.
    pub roster: bool,
    /// Whether members have files for TLS.
    pub tls: bool,
}

/// What is filled in for one member.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// For a member of a complete cluster.
    Member {
        /// Everybody's places.
        places: &'a Places,
        /// The member's rank. If nobody has it, its values are empty.
        rank: usize,
        /// The path of its `roster.json`.
        roster_file: &'a Path,
    },
    /// For a program that will join by itself.
    Alone {
        /// The name it is to join with.
        name: &'a Name,
        /// The cluster's name.
        cluster: &'a str,
        /// How many members the cluster is for.
        size: u32,
        /// The directory it is given, absolute.
        dir: &'a Path,
    },
}

/// A text with placeholders, parsed.
#[derive(Clone, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
enum Piece {
    Part(Part),
    List(List),
}

/// What a template and a list's pattern are both made of; so lists can't nest.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Own(Own),
}

/// `{members SEP PATTERN}`, or `{peers SEP PATTERN}`.
#[derive(Clone, Debug)]
struct List {
    /// Whether the member that it is filled in for is in it too.
    with_oneself: bool,
    separator: String,
    pattern: Vec<Part>,
}

/// One of a member's own placeholders. An endpoint's number is its index: 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Rank,
    Name,
    Id,
    Size,
    Cluster,
    ClusterId,
    Dir,
    Roster,
    Cert,
    Key,
    RosterCa,
    Endpoint(usize),
    Host(usize),
    Port(usize),
}

/// All own placeholders, by the words that stand for them.
const OWN: [(&str, Own); 17] = [
    ("rank", Own::Rank),
    ("name", Own::Name),
    ("id", Own::Id),
    ("size", Own::Size),
    ("cluster", Own::Cluster),
    ("cluster_id", Own::ClusterId),
    ("dir", Own::Dir),
    ("roster", Own::Roster),
    ("endpoint", Own::Endpoint(0)),
    ("host", Own::Host(0)),
    ("port", Own::Port(0)),
    ("endpoint1", Own::Endpoint(1)),
    ("host1", Own::Host(1)),
    ("port1", Own::Port(1)),
    ("cert", Own::Cert),
    ("key", Own::Key),
    ("roster_ca", Own::RosterCa),
];

/// The keywords of lists, and whether oneself is in the list.
const LISTS: [(&str, bool); 2] = [("members", true), ("peers", false)];

impl Template {
    /// Parses `text`, of which every placeholder must be on `offer`.
    ///
    /// # Errors
    /// [`TemplateError`] for a placeholder that doesn't exist, isn't on offer or isn't complete. A
    /// text without any placeholder is never refused.
    pub fn parse(text: &str, offer: &Offer) -> Result<Self, TemplateError> {
        parse::pieces(text, *offer).map(|pieces| Self { pieces })
    }

    /// The text for the member at `rank`, whose roster is in `roster_file`. What nobody has is
    /// empty: the values of a rank beyond the roster, or an endpoint that was not on offer.
    #[must_use]
    pub fn fill(&self, places: &Places, rank: usize, roster_file: &Path) -> String {
        self.fill_with(&Values::Member { places, rank, roster_file })
    }

    /// The text with these values. Those that aren't known, because the template was parsed for
    /// another [`Offer`], are empty.
    #[must_use]
    pub fn fill_with(&self, values: &Values<'_>) -> String {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Part(part) => part.fill(values, &mut filled),
                Piece::List(list) => list.fill(values, &mut filled),
            }
        }
        filled
    }
}

impl Part {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    fn fill(&self, values: &Values<'_>, filled: &mut String) {
        match self {
            Self::Text(text) => filled.push_str(text),
            Self::Own(own) => filled.push_str(&values.of(*own).unwrap_or_default()),
        }
    }
}

impl List {
    fn fill(&self, values: &Values<'_>, filled: &mut String) {
        let Values::Member { places, rank: oneself, roster_file } = *values else { return };
        let listed = (0..places.members.len()).filter(|rank| self.with_oneself || *rank != oneself);
        for (nth, rank) in listed.enumerate() {
            if nth > 0 {
                filled.push_str(&self.separator);
            }
            for part in &self.pattern {
                part.fill(&Values::Member { places, rank, roster_file }, filled);
            }
        }
    }
}

impl Values<'_> {
    /// What stands for `own`; none if it isn't known.
    fn of(&self, own: Own) -> Option<String> {
        match *self {
            Self::Member { places, rank, roster_file } => {
                let member = places.members.get(rank)?;
                of_member(places, rank, member, roster_file, own)
            }
            Self::Alone { name, cluster, size, dir } => match own {
                Own::Name => Some(name.to_string()),
                Own::Cluster => Some(cluster.to_owned()),
                Own::Size => Some(size.to_string()),
                Own::Dir => Some(dir.display().to_string()),
                _ => None,
            },
        }
    }
}

fn of_member(
    places: &Places,
    rank: usize,
    member: &Place,
    roster_file: &Path,
    own: Own,
) -> Option<String> {
    let endpoint = |number: usize| member.endpoints.get(number);
    let path = |path: &Path| path.display().to_string();
    let tls = || member.tls.as_ref();
    Some(match own {
        Own::Rank => rank.to_string(),
        Own::Name => member.name.to_string(),
        Own::Id => member.id.to_string(),
        Own::Size => places.size.to_string(),
        Own::Cluster => places.cluster.clone(),
        Own::ClusterId => places.cluster_id.to_string(),
        Own::Dir => path(&member.dir),
        Own::Roster => path(roster_file),
        Own::Cert => path(&tls()?.cert),
        Own::Key => path(&tls()?.key),
        Own::RosterCa => path(&tls()?.roster_ca),
        Own::Endpoint(number) => endpoint(number)?.to_string(),
        Own::Host(number) => endpoint(number)?.host().to_owned(),
        Own::Port(number) => endpoint(number)?.port().to_string(),
    })
}

impl Own {
    /// Whether it is known of a program that will join by itself.
    fn is_known_alone(self) -> bool {
        matches!(self, Self::Name | Self::Cluster | Self::Size | Self::Dir)
    }

    /// Whether it is the path of a file that only the member itself has a use for.
    fn is_own_file(self) -> bool {
        self == Self::Roster || self.is_tls()
    }

    /// Whether it is known of a member with TLS files only.
    fn is_tls(self) -> bool {
        matches!(self, Self::Cert | Self::Key | Self::RosterCa)
    }

    /// How many endpoints a member must have for this to be known.
    fn endpoints(self) -> usize {
        match self {
            Self::Endpoint(number) | Self::Host(number) | Self::Port(number) => number + 1,
            _ => 0,
        }
    }
}

impl Offer {
    fn has(self, own: Own) -> bool {
        (self.roster || own.is_known_alone())
            && own.endpoints() <= self.endpoints
            && (self.tls || !own.is_tls())
    }
}
