//! The brace format that all files of XLattice share: a reader of lines, a writer of lines.
//!
//! ```text
//! opener {
//!     key: value
//!     block {
//!         key: value
//!     }
//! }
//! ```
//!
//! Each method of [`Reader`] has its like in [`Writer`]; a format is the same calls in the same
//! order on both.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::{FromStr, Split};

use zeroize::Zeroizing;

use super::error::{TextError, ValueError};

/// Bytes of text that are looked at: a member file with 64 members and as many peers has about
/// 130 KiB with 2048-bit keys, 400 KiB with the largest.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Bytes of a line: the `ssh-rsa` line of the largest key has about 1,500.
pub const LINE_BYTES_MAX: usize = 4096;

/// Characters of a stranger's text that an error quotes.
const QUOTED_CHARS_MAX: usize = 40;

/// Characters of a field's name, the most that an error quotes from a file with private keys.
const WORD_CHARS_MAX: usize = 16;

/// Goes through a text line by line; blank lines and indentation mean nothing.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    what: &'static str,
    private: bool,
    lines: Split<'a, char>,
    /// The line read last, from 1; 0 before the first.
    line: usize,
}

impl<'a> Reader<'a> {
    /// A reader of public text; `what` names it in errors.
    pub(super) fn new(what: &'static str, text: &'a str) -> Result<Self, TextError> {
        let (got, max) = (text.len(), FILE_BYTES_MAX);
        if got > max {
            return Err(TextError::TooLarge { what, got, max });
        }
        let lines = text.split('\n');
        Ok(Self { what, private: false, lines, line: 0 })
    }

    /// A reader of text that holds private keys, which errors must not quote.
    pub(super) fn private(what: &'static str, text: &'a str) -> Result<Self, TextError> {
        Ok(Self { private: true, ..Self::new(what, text)? })
    }

    /// The next line that is not blank, without what surrounds it; none at the end.
    pub(super) fn next_line(&mut self) -> Result<Option<&'a str>, TextError> {
        loop {
            self.line += 1;
            let Some(line) = self.lines.next() else {
                return Ok(None);
            };
            let (got, max) = (line.len(), LINE_BYTES_MAX);
            if got > max {
                return Err(TextError::LineTooLong { what: self.what, line: self.line, got, max });
            }
            let line = line.trim();
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What `pick` makes of the next line; if it makes nothing of it, an error that `expected`
    /// belonged here.
    pub(super) fn expect<T>(
        &mut self,
        expected: impl FnOnce() -> String,
        pick: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, TextError> {
        let line = self.next_line()?;
        line.and_then(pick).ok_or_else(|| TextError::Unexpected {
            what: self.what,
            line: self.line,
            expected: expected(),
            found: line.map_or("the end of the text".into(), |line| self.quote(line)),
        })
    }

    /// Exactly this line.
    pub(super) fn exactly(&mut self, wanted: &str) -> Result<(), TextError> {
        self.expect(|| format!("`{wanted}`"), |line| (line == wanted).then_some(()))
    }

    /// `name {`.
    pub(super) fn open(&mut self, name: &'static str) -> Result<(), TextError> {
        self.exactly(&format!("{name} {{"))
    }

    /// `}`.
    pub(super) fn close(&mut self) -> Result<(), TextError> {
        self.exactly("}")
    }

    /// Nothing more but blank lines.
    pub(super) fn end(&mut self) -> Result<(), TextError> {
        match self.next_line()? {
            None => Ok(()),
            Some(line) => Err(TextError::Unexpected {
                what: self.what,
                line: self.line,
                expected: "nothing more".into(),
                found: self.quote(line),
            }),
        }
    }

    /// `key: value`, its value as text.
    pub(super) fn raw(&mut self, key: &'static str) -> Result<&'a str, TextError> {
        self.expect(|| format!("`{key}: ...`"), |line| value_of(line, key))
    }

    /// `key: value`, its value as `parse` understands it.
    pub(super) fn parsed<T, E>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Result<T, TextError>
    where
        ValueError: From<E>,
    {
        let value = self.raw(key)?;
        parse(value).map_err(|error| self.bad(key, error))
    }

    /// `key: value`.
    pub(super) fn value<T: FromStr>(&mut self, key: &'static str) -> Result<T, TextError>
    where
        ValueError: From<T::Err>,
    {
        self.parsed(key, T::from_str)
    }

    /// `key: number`, in digits as we would write them.
    pub(super) fn number<T>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<T, TextError>
    where
        T: FromStr + Display + PartialOrd,
    {
        self.parsed(key, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number));
            number.filter(|number| number.to_string() == text).ok_or_else(|| ValueError::Number {
                expected: format!("a number from {} to {}", range.start(), range.end()),
            })
        })
    }

    /// `name { ... }`, holding as many entries as `count` allows.
    pub(super) fn block<T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(&mut Self) -> Result<T, TextError>,
    ) -> Result<Vec<T>, TextError> {
        self.open(name)?;
        let mut entries = Vec::new();
        // With too few entries a brace is what the next one's reader does not expect.
        while entries.len() < *count.start() || !self.at_line("}") {
            if entries.len() == *count.end() {
                if self.peek().is_none() {
                    break;
                }
                self.next_line()?;
                return Err(self.too_many(name, *count.end()));
            }
            entries.push(read(self)?);
        }
        self.close()?;
        Ok(entries)
    }

    /// Whether the next line is `key: ...`; for the few places where versions differ.
    pub(super) fn at(&self, key: &str) -> bool {
        self.peek().is_some_and(|line| value_of(line, key).is_some())
    }

    /// Whether this is the next line.
    pub(super) fn at_line(&self, wanted: &str) -> bool {
        self.peek() == Some(wanted)
    }

    /// The next line; none at the end, or if reading it will fail.
    fn peek(&self) -> Option<&'a str> {
        self.clone().next_line().ok().flatten()
    }

    /// That the value of `field`, on the line read last, is none.
    pub(super) fn bad(&self, field: &'static str, error: impl Into<ValueError>) -> TextError {
        let (what, line, source) = (self.what, self.line, error.into());
        TextError::Value { what, line, field, source }
    }

    /// That there are more lines or entries in `block` than there may be.
    pub(super) fn too_many(&self, block: &'static str, max: usize) -> TextError {
        TextError::TooMany { what: self.what, line: self.line, block, max }
    }

    /// A line as an error may show it: short, printable, without secrets.
    fn quote(&self, line: &str) -> String {
        if self.private {
            return quote_private(line);
        }
        let mut text: String = line.chars().take(QUOTED_CHARS_MAX).collect();
        if text.len() < line.len() {
            text.push_str("...");
        }
        format!("`{}`", text.escape_debug())
    }
}

/// The value in `key: value`, if that is what `line` is.
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(": ")
}

/// A line of a file with private keys: its first word if that can only be a field's name, since any
/// other line, misplaced or damaged, might be part of a key.
fn quote_private(line: &str) -> String {
    let is_name = |word: &str| {
        word.len() <= WORD_CHARS_MAX && word.bytes().all(|byte| byte.is_ascii_alphabetic())
    };
    if line == "}" {
        return "`}`".into();
    }
    match (line.strip_suffix(" {"), line.split_once(": ")) {
        (Some(word), _) if is_name(word) => format!("`{word} {{`"),
        (_, Some((word, _))) if is_name(word) => format!("`{word}: ...`"),
        _ => format!("a line of {} bytes that may be part of a private key", line.len()),
    }
}

/// Puts lines together. Its memory is wiped when it is dropped, also what it outgrows.
pub(super) struct Writer {
    text: Zeroizing<String>,
    line_end: &'static str,
    depth: usize,
}

impl Writer {
    /// A writer that ends its lines with `line_end`.
    pub(super) fn new(line_end: &'static str) -> Self {
        // Room for a member file of a few members.
        let text = Zeroizing::new(String::with_capacity(32 * 1024));
        Self { text, line_end, depth: 0 }
    }

    /// Appends text as it is.
    pub(super) fn push(&mut self, text: &str) {
        let needed = self.text.len() + text.len();
        if needed > self.text.capacity() {
            // A String that grows by itself leaves its old memory behind unwiped.
            let mut larger = Zeroizing::new(String::with_capacity(needed * 2));
            larger.push_str(&self.text);
            self.text = larger;
        }
        self.text.push_str(text);
    }

    /// The spaces before a line.
    pub(super) fn indent(&mut self) {
        for _ in 0..self.depth {
            self.push("    ");
        }
    }

    fn line(&mut self, text: &str) {
        self.indent();
        self.push(text);
        self.push(self.line_end);
    }

    /// `name {`.
    pub(super) fn open(&mut self, name: &str) {
        self.line(&format!("{name} {{"));
        self.depth += 1;
    }

    /// `}`.
    pub(super) fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.line("}");
    }

    /// `key: value`. Not for secrets: the value is formatted in memory that is not wiped.
    pub(super) fn value(&mut self, key: &str, value: impl Display) {
        self.line(&format!("{key}: {value}"));
    }

    /// `name { ... }`.
    pub(super) fn block<T>(&mut self, name: &str, entries: &[T], write: impl Fn(&mut Self, &T)) {
        self.open(name);
        for entry in entries {
            write(self, entry);
        }
        self.close();
    }

    /// The text with its last line end.
    pub(super) fn finish(self) -> Zeroizing<String> {
        self.text
    }

    /// The text without its last line end.
    pub(super) fn finish_unended(mut self) -> Zeroizing<String> {
        let end = self.text.trim_end().len();
        self.text.truncate(end);
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(reader: &mut Reader<'_>) -> String {
        match reader.exactly("x") {
            Err(TextError::Unexpected { found, .. }) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        let mut reader = Reader::new("test", "\r\n\n\ta {\r\n  k: v\n\n").unwrap();
        assert_eq!(reader.open("a"), Ok(()));
        assert_eq!(reader.line, 3);
        assert!(reader.at("k"));
        assert_eq!(reader.raw("k"), Ok("v"));
        assert_eq!(reader.line, 4);
        assert_eq!(reader.close().unwrap_err().line(), Some(7));
    }

    #[test]
    fn a_stranger_s_text_is_cut_short_and_escaped() {
        let text = format!("\u{1b}[2J{}", "y".repeat(500));
        let quoted = found(&mut Reader::new("test", &text).unwrap());
        assert!(quoted.starts_with("`\\u{1b}[2Jyyy") && quoted.ends_with("...`"), "{quoted}");
        assert!(quoted.len() < 60, "{quoted}");
    }

    #[test]
    fn what_may_be_a_secret_is_never_quoted() {
        for secret in [
            "MIIEpQIBAAKCAQEAvmK",
            "ar0sTfqwW0UD/WT9jPLVxusKJWRTrAfCCv0oOt4h4OlmMsKdX1vEjfg=",
            "MIIEpQIBAAKCAQEAvmK+TCCOlSjacHzvDS2Tc: N+8NzYHtVdgx1QIe2dsI",
            "MIIEpQIBAAKCAQEAvmK {",
        ] {
            let quoted = found(&mut Reader::private("test", secret).unwrap());
            assert!(!quoted.contains("MIIE") && !quoted.contains("ar0s"), "{quoted}");
        }
        for (line, shown) in [("}", "`}`"), ("peers {", "`peers {`"), ("lfs: x", "`lfs: ...`")] {
            assert_eq!(found(&mut Reader::private("test", line).unwrap()), shown);
        }
    }

    #[test]
    fn only_numbers_as_we_write_them_are_taken() {
        let number = |text: &str| {
            let text = format!("n: {text}");
            Reader::new("test", &text).unwrap().number("n", 1..=64u32)
        };
        assert_eq!(number("64"), Ok(64));
        for bad in ["0", "65", "-1", "+1", "01", "1 2", "0x1", "1.0", "99999999999999999999", "a"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_capped() {
        let long = "k: ".to_string() + &"v".repeat(LINE_BYTES_MAX);
        let error = Reader::new("test", &long).unwrap().raw("k").unwrap_err();
        assert!(matches!(error, TextError::LineTooLong { line: 1, .. }), "{error}");

        let huge = "\n".repeat(FILE_BYTES_MAX + 1);
        let error = Reader::new("test", &huge).err().unwrap();
        assert!(matches!(error, TextError::TooLarge { .. }), "{error}");

        let mut reader = Reader::new("test", "b {\nk: a\nk: b\nk: c\n}").unwrap();
        let error = reader.block("b", 0..=2, |r| r.raw("k").map(str::len)).unwrap_err();
        assert!(matches!(error, TextError::TooMany { line: 4, max: 2, .. }), "{error}");
    }

    #[test]
    fn a_writer_keeps_its_text_as_it_grows() {
        let mut writer = Writer::new("\n");
        for _ in 0..10_000 {
            writer.value("key", "value");
        }
        assert_eq!(*writer.finish(), "key: value\n".repeat(10_000));
    }
}
