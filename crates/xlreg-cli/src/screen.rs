//! Lines on a terminal that take the place of those before, as wide and as high as it is.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::tcgetwinsize;

/// What stands on the terminal now.
pub(crate) struct Screen {
    /// False where lines can only be added: in a pipe, and on a terminal that knows no better.
    redraws: bool,
    /// How long each of the lines is that were drawn last, in characters.
    drawn: Vec<usize>,
    /// What was to be drawn last, and on which size.
    asked: (Vec<String>, Size),
}

/// Columns and rows, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    columns: Option<usize>,
    rows: Option<usize>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let redraws = io::stdout().is_terminal() && !dumb;
        Self { redraws, drawn: Vec::new(), asked: (Vec::new(), Size::default()) }
    }

    /// Shows these lines, and only these, unless they stand there already. What the last says is
    /// seen in any case; if there is no room for all others, those below the first few are left out.
    pub(crate) fn draw(&mut self, lines: Vec<String>) -> io::Result<()> {
        let size = if self.redraws { Size::of_stdout() } else { Size::default() };
        if self.asked == (lines.clone(), size) {
            return Ok(());
        }
        let fitted = size.fit(&lines);
        let mut text = String::new();
        if self.redraws && !self.drawn.is_empty() {
            // Up to where the first line began, and clear from there.
            let _infallible = write!(text, "\x1b[{}A\r\x1b[J", size.rows_of(&self.drawn));
        }
        for line in &fitted {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = fitted.iter().map(|line| line.chars().count()).collect();
        self.asked = (lines, size);
        // In one piece, so that nobody sees it half.
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

impl Size {
    fn of_stdout() -> Self {
        let Ok(size) = tcgetwinsize(io::stdout()) else { return Self::default() };
        // 0 is what a terminal says that doesn't know.
        let known = |cells: u16| (cells > 0).then_some(usize::from(cells));
        Self { columns: known(size.ws_col), rows: known(size.ws_row) }
    }

    /// As much of these lines as has room, each on one row, with one row left for the cursor.
    fn fit(self, lines: &[String]) -> Vec<String> {
        let room = self.rows.map_or(usize::MAX, |rows| rows.saturating_sub(1).max(1));
        let cut = |line: &String| self.cut(line);
        let Some((last, others)) = lines.split_last() else { return Vec::new() };
        if lines.len() <= room {
            return lines.iter().map(cut).collect();
        }
        // The last line, and the one that says what is left out.
        let shown = room.saturating_sub(2);
        let left_out = format!("... and {} more", others.len() - shown);
        let told = (room > 1).then_some(left_out);
        let head = others.iter().take(shown).cloned();
        head.chain(told).chain([last.clone()]).map(|line| cut(&line)).collect()
    }

    /// A line that does not reach beyond the last column.
    fn cut(self, line: &str) -> String {
        match self.columns {
            Some(columns) if line.chars().count() > columns => {
                let kept = line.chars().take(columns.saturating_sub(1));
                kept.chain(['…']).collect()
            }
            _ => line.to_owned(),
        }
    }

    /// The rows that lines of these lengths take: those drawn on a wider terminal are wrapped now.
    fn rows_of(self, lengths: &[usize]) -> usize {
        let columns = self.columns.unwrap_or(usize::MAX);
        lengths.iter().map(|length| length.div_ceil(columns).max(1)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(columns: usize, rows: usize, lines: &[&str]) -> Vec<String> {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        Size { columns: Some(columns), rows: Some(rows) }.fit(&lines)
    }

    /// However small the terminal, nothing is wrapped or scrolls away, and the last line is seen.
    #[test]
    fn lines_are_cut_to_what_a_terminal_has_room_for() {
        let lines = ["title", "a row of a table", "another", "third", "status"];
        assert_eq!(fit(80, 24, &lines), lines);
        assert_eq!(fit(80, 6, &lines), lines);
        assert_eq!(fit(80, 5, &lines), ["title", "a row of a table", "... and 2 more", "status"]);
        assert_eq!(fit(8, 5, &lines), ["title", "a row o…", "... and…", "status"]);
        assert_eq!(fit(80, 3, &lines), ["... and 4 more", "status"]);
        for rows in [1, 2] {
            assert_eq!(fit(80, rows, &lines), ["status"]);
        }
        assert_eq!(fit(1, 24, &["title", "é"]), ["…", "é"]);
        assert_eq!(Size::default().fit(&["x".repeat(9000)]), ["x".repeat(9000)]);
        assert!(fit(80, 24, &[]).is_empty());
    }

    #[test]
    fn lines_of_a_wider_terminal_take_more_rows_on_a_narrower_one() {
        let size = |columns| Size { columns, rows: None };
        assert_eq!(size(Some(10)).rows_of(&[0, 10, 11, 35]), 1 + 1 + 2 + 4);
        assert_eq!(size(None).rows_of(&[0, 1000]), 2);
    }
}
