//! The grammar of templates, as the module above describes it.

use super::error::{self, At, TemplateError};
use super::{LISTS, List, OWN, Offer, Own, Part, Piece};

/// The pieces of `text`.
pub(super) fn pieces(text: &str, offer: Offer) -> Result<Vec<Piece>, TemplateError> {
    Parser { text, at: 0, offer }.pieces()
}

/// A text, and how far we are in it.
struct Parser<'a> {
    text: &'a str,
    /// The bytes that are done with: always up to a boundary between characters, because nothing
    /// but whole runs of text and single ASCII characters is taken.
    at: usize,
    offer: Offer,
}

/// What a text and a pattern are read as. Backslashes are resolved in it.
enum Token<'a> {
    Text(&'a str),
    /// The brace of a placeholder, taken; `begin` is its offset in bytes.
    Placeholder {
        begin: usize,
    },
    /// Another `{`.
    Open,
    /// Any `}`.
    Close,
}

/// Where a token is read, which decides the braces that mean something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In the text itself: those of placeholders.
    Text,
    /// In a list's pattern: all, because the list ends at the one without its other half.
    Pattern,
}

impl<'a> Parser<'a> {
    fn pieces(mut self) -> Result<Vec<Piece>, TemplateError> {
        let mut pieces = Vec::new();
        while let Some(token) = self.token(Scope::Text) {
            pieces.push(match token {
                Token::Text(text) => Piece::Part(Part::text(text)),
                Token::Open => Piece::Part(Part::text("{")),
                Token::Close => Piece::Part(Part::text("}")),
                Token::Placeholder { begin } => self.placeholder(begin)?,
            });
        }
        Ok(pieces)
    }

    /// What follows the brace at `begin`: a member's own, or a list.
    fn placeholder(&mut self, begin: usize) -> Result<Piece, TemplateError> {
        let word = self.word();
        match list_keyword(word) {
            Some((keyword, with_oneself)) => {
                self.list(begin, keyword, with_oneself).map(Piece::List)
            }
            None => self.own(begin, word).map(|own| Piece::Part(Part::Own(own))),
        }
    }

    /// The end of a placeholder that began with `word`.
    fn own(&mut self, begin: usize, word: &str) -> Result<Own, TemplateError> {
        let at = At::of(self.text, begin);
        let Some((word, own)) = OWN.into_iter().find(|(known, _)| *known == word) else {
            return Err(error::unknown(word, at, self.offer));
        };
        if !self.offer.roster && !own.is_known_alone() {
            return Err(error::no_roster(word, at, self.offer));
        }
        if own.is_tls() && !self.offer.tls {
            return Err(TemplateError::NoTls { word, at });
        }
        if !self.offer.has(own) {
            return Err(TemplateError::NoEndpoint { word, at, endpoints: own.endpoints() });
        }
        if !self.rest().starts_with('}') {
            return Err(TemplateError::NotClosed { word, at });
        }
        self.take(1);
        Ok(own)
    }

    /// The rest of a list that began with `keyword`.
    fn list(
        &mut self,
        begin: usize,
        keyword: &'static str,
        with_oneself: bool,
    ) -> Result<List, TemplateError> {
        let at = At::of(self.text, begin);
        if !self.offer.roster {
            return Err(error::no_roster(keyword, at, self.offer));
        }
        let incomplete = TemplateError::IncompleteList { keyword, at };
        let after = self.rest().strip_prefix(' ').and_then(|rest| rest.split_once(' '));
        // A brace is most likely the pattern of somebody who forgot the separator.
        let Some((separator, _)) = after.filter(|(separator, _)| !separator.contains(['{', '}']))
        else {
            return Err(incomplete);
        };
        self.take(" ".len() + separator.len() + " ".len());
        let separator = unescape(separator).ok_or(TemplateError::Separator { keyword, at })?;
        let pattern = self.pattern()?.ok_or(TemplateError::OpenList { keyword, at })?;
        if pattern.is_empty() {
            return Err(incomplete);
        }
        Ok(List { with_oneself, separator, pattern })
    }

    /// A pattern, and the brace that ends its list. None if there is no such brace.
    fn pattern(&mut self) -> Result<Option<Vec<Part>>, TemplateError> {
        let mut parts = Vec::new();
        let mut depth = 0_usize;
        while let Some(token) = self.token(Scope::Pattern) {
            parts.push(match token {
                Token::Text(text) => Part::text(text),
                Token::Open => {
                    depth += 1;
                    Part::text("{")
                }
                Token::Close if depth == 0 => return Ok(Some(parts)),
                Token::Close => {
                    depth -= 1;
                    Part::text("}")
                }
                Token::Placeholder { begin } => Part::Own(self.listed(begin)?),
            });
        }
        Ok(None)
    }

    /// A placeholder in a pattern.
    fn listed(&mut self, begin: usize) -> Result<Own, TemplateError> {
        let refuse = |word| TemplateError::InList { word, at: At::of(self.text, begin) };
        let word = self.word();
        if let Some((keyword, _)) = list_keyword(word) {
            return Err(refuse(keyword));
        }
        let own = self.own(begin, word)?;
        // Where the others have theirs is not known, and would be of no use.
        let word = OWN.into_iter().find(|(_, known)| *known == own && own.is_own_file());
        word.map_or(Ok(own), |(word, _)| Err(refuse(word)))
    }

    /// The next token. Each is at least one byte of the text; none is its end.
    fn token(&mut self, scope: Scope) -> Option<Token<'a>> {
        let rest = self.rest();
        let plain = rest.find(['\\', '{', '}']).unwrap_or(rest.len());
        if plain > 0 {
            return Some(Token::Text(self.take(plain)));
        }
        let backslashes = rest.len() - rest.trim_start_matches('\\').len();
        match self.brace(self.at + backslashes, scope) {
            Some(brace) if backslashes == 0 => {
                self.take(1);
                Some(brace)
            }
            Some(_) => Some(Token::Text(self.escape(backslashes))),
            None if rest.is_empty() => None,
            // Backslashes before nothing special, or else a brace that is text.
            None => Some(Token::Text(self.take(backslashes.max(1)))),
        }
    }

    /// The brace at `offset`, if it means something in this scope.
    fn brace(&self, offset: usize, scope: Scope) -> Option<Token<'static>> {
        let (before, rest) = self.text.split_at(offset);
        if let Some(inside) = rest.strip_prefix('{') {
            let is_word = inside.starts_with(|first: char| first.is_ascii_lowercase());
            if is_word && !before.ends_with('$') {
                return Some(Token::Placeholder { begin: offset });
            }
            return (scope == Scope::Pattern).then_some(Token::Open);
        }
        (scope == Scope::Pattern && rest.starts_with('}')).then_some(Token::Close)
    }

    /// What a run of `backslashes`, at least one, gives before a brace that means something: one for
    /// each pair, and if one is left, the brace. Then the brace is taken as well.
    fn escape(&mut self, backslashes: usize) -> &'a str {
        let run = self.take(backslashes + backslashes % 2);
        run.split_at(backslashes.div_ceil(2)).1
    }

    /// The word of a placeholder. It may have more characters than our words have, so that
    /// `{host-name}` is refused by its whole name.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let is_in_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        self.take(rest.find(|c| !is_in_word(c)).unwrap_or(rest.len()))
    }

    fn rest(&self) -> &'a str {
        self.text.split_at(self.at).1
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = self.rest().split_at(bytes).0;
        self.at += bytes;
        taken
    }
}

fn list_keyword(word: &str) -> Option<(&'static str, bool)> {
    LISTS.into_iter().find(|(keyword, _)| *keyword == word)
}

/// A separator as it is meant. None if a backslash in it says nothing.
fn unescape(separator: &str) -> Option<String> {
    let mut meant = String::new();
    let mut characters = separator.chars();
    while let Some(character) = characters.next() {
        meant.push(match character {
            '\\' => match characters.next()? {
                'n' => '\n',
                't' => '\t',
                's' => ' ',
                '\\' => '\\',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(meant)
}
