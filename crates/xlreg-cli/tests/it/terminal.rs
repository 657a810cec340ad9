//! A terminal that a command writes to, and what stands on it.

use std::os::fd::OwnedFd;
use std::process::Command;

use nix::pty::{Winsize, openpty};
use rustix::termios::tcsetwinsize;

use crate::support::Running;

/// A command whose stdout is a terminal.
pub(crate) struct Terminal {
    pub(crate) running: Running,
    master: OwnedFd,
    size: (usize, usize),
}

impl Terminal {
    /// Starts the command on a terminal of so many columns and rows.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let shown = pty.master.try_clone().unwrap();
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        let running = Running::on_terminal(command, pty.slave, shown);
        Self { running, master: pty.master, size: (columns.into(), rows.into()) }
    }

    /// Makes the terminal larger or smaller, as a user does with a window.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        let size =
            rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
        self.size = (columns.into(), rows.into());
    }

    /// Waits until these lines stand on the terminal, and no others.
    #[track_caller]
    pub(crate) fn shows(&self, lines: &[&str]) -> String {
        let what = format!("shown: {lines:#?}");
        self.running.until_prints(&what, |written| self.screen(written) == lines)
    }

    /// What stands there after all that was written.
    pub(crate) fn screen(&self, written: &str) -> Vec<String> {
        screen(written, self.size.0, self.size.1)
    }
}

/// Of what terminals do, that which is used: lines, returns, going up, clearing, wrapping, and
/// scrolling away. Trailing blanks and empty lines are nothing to see.
fn screen(written: &str, columns: usize, rows: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let (mut row, mut column) = (0_usize, 0_usize);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(rest.next(), Some('['));
                let sequence: String = rest.by_ref().take_while(char::is_ascii_digit).collect();
                // take_while has eaten the letter: a number is always followed by A, none by J.
                match sequence.parse::<usize>() {
                    Ok(up) => row = row.saturating_sub(up),
                    Err(_) => {
                        lines.truncate(row + 1);
                        lines[row] = lines[row].chars().take(column).collect();
                    }
                }
            }
            c => {
                if column == columns {
                    (row, column) = (row + 1, 0);
                }
                lines.resize(lines.len().max(row + 1), String::new());
                let mut line: Vec<char> = lines[row].chars().collect();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                lines[row] = line.into_iter().collect();
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), String::new());
        while lines.len() > rows {
            lines.remove(0);
            row -= 1;
        }
    }
    let lines = lines.into_iter().map(|line| line.trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_terminal_of_these_tests_wraps_scrolls_and_clears() {
    assert_eq!(screen("ab\r\ncd\r\n", 80, 24), ["ab", "cd"]);
    assert_eq!(screen("abcd\r\n", 3, 24), ["abc", "d"]);
    assert_eq!(screen("a\r\nb\r\nc\r\n", 80, 3), ["b", "c"]);
    assert_eq!(screen("a\r\nb\r\n\x1b[2A\r\x1b[Jc\r\n", 80, 24), ["c"]);
    assert_eq!(screen("a\r\nb\r\n\x1b[1A\r\x1b[Jc\r\n", 80, 24), ["a", "c"]);
    // What has scrolled away can't be cleared.
    assert_eq!(screen("a\r\nb\r\nc\r\n\x1b[3A\r\x1b[Jd\r\n", 80, 3), ["d"]);
    assert_eq!(screen("abcdef\r\n\x1b[1A\r\x1b[Jx\r\n", 3, 24), ["abc", "x"]);
}
