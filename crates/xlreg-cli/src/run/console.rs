//! What a run prints: its programs' lines, each with its member's name before it, and its own notes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anstream::{AutoStream, ColorChoice};
use tokio::sync::{SetOnce, mpsc, oneshot};
use xlreg::Name;
use xlreg_launch::output::{OUTPUT_QUEUE, Output, Stream};

use super::control;
use crate::output;

/// The log of a detached run is cut when it gets so long: the older half goes into a second file,
/// and what that held is forgotten.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The colours of members, in ranks' order, again and again: of the 16 that every terminal has,
/// those that can be read on dark and on light.
const COLOURS: [&str; 10] = ["36", "33", "32", "35", "34", "96", "93", "92", "95", "94"];

/// Where a run's lines go.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// Whether programs' lines go to our own output. Notes do in any case.
    pub(crate) programs: bool,
    /// With each member's name before its lines.
    pub(crate) prefix: bool,
    /// One file for all, as they would be printed.
    pub(crate) log: Option<PathBuf>,
    /// A directory with a file for each member, as its program wrote.
    pub(crate) dir: Option<PathBuf>,
}

/// A thread that prints. It alone waits for slow readers.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    pieces: mpsc::Sender<Piece>,
}

#[derive(Debug)]
enum Piece {
    Output(Output),
    Note(String),
    /// Answered when all before is written.
    Flush(oneshot::Sender<()>),
}

impl Console {
    /// Starts it. `broken` hears why the programs' output can't be printed any more.
    pub(crate) fn start(
        names: &[Name],
        targets: &Targets,
        broken: Arc<SetOnce<String>>,
    ) -> anyhow::Result<Self> {
        let mut printer = Printer::new(names, targets, broken)?;
        let (pieces, mut coming) = mpsc::channel(OUTPUT_QUEUE);
        thread::Builder::new().name("xlreg-print".to_owned()).spawn(move || {
            while let Some(piece) = coming.blocking_recv() {
                printer.print(piece);
                if coming.is_empty() {
                    printer.flush();
                }
            }
        })?;
        Ok(Self { pieces })
    }

    /// Prints what a program wrote; waits while others' output is still being printed.
    pub(crate) async fn output(&self, output: Output) {
        let _printer_gone = self.pieces.send(Piece::Output(output)).await;
    }

    /// Prints a note of our own.
    pub(crate) async fn note(&self, note: impl Into<String>) {
        let _printer_gone = self.pieces.send(Piece::Note(note.into())).await;
    }

    /// Waits until all before is printed.
    pub(crate) async fn flush(&self) {
        let (done, printed) = oneshot::channel();
        let _printer_gone = self.pieces.send(Piece::Flush(done)).await;
        let _printer_gone = printed.await;
    }
}

struct Printer {
    /// What stands before each member's lines, without and with colour.
    prefixes: Vec<Prefix>,
    /// Whether our own output has them.
    prefix: bool,
    streams: Streams,
    programs: bool,
    log: Option<Log>,
    files: Vec<Sink>,
    broken: Arc<SetOnce<String>>,
}

struct Prefix {
    plain: Vec<u8>,
    coloured: Vec<u8>,
}

/// Our own output, with or without colour.
struct Streams {
    stdout: io::BufWriter<io::Stdout>,
    stderr: io::BufWriter<io::Stderr>,
    stdout_coloured: bool,
    stderr_coloured: bool,
}

/// A file that is written until that fails; then it is told once, and let be.
struct Sink {
    path: PathBuf,
    file: Option<io::BufWriter<File>>,
}

/// The log of a run, as others follow it.
struct Log {
    sink: Sink,
    bytes: u64,
}

impl Prefix {
    fn shown(&self, wanted: bool, coloured: bool) -> &[u8] {
        match (wanted, coloured) {
            (false, _) => &[],
            (true, false) => &self.plain,
            (true, true) => &self.coloured,
        }
    }
}

impl Printer {
    fn new(
        names: &[Name],
        targets: &Targets,
        broken: Arc<SetOnce<String>>,
    ) -> anyhow::Result<Self> {
        let width = names.iter().map(|name| name.as_str().len()).max().unwrap_or_default();
        let prefixes = names.iter().zip(COLOURS.iter().cycle()).map(|(name, colour)| {
            let plain = format!("{:width$} | ", name.as_str());
            let coloured = format!("\x1b[{colour}m{plain}\x1b[0m");
            Prefix { plain: plain.into_bytes(), coloured: coloured.into_bytes() }
        });
        let files = match &targets.dir {
            None => Vec::new(),
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(|error| {
                    let advice = "name another with --log-dir";
                    anyhow::anyhow!("making the directory {}: {error}; {advice}", dir.display())
                })?;
                let files = names.iter().map(|name| Sink::open(&dir.join(format!("{name}.log"))));
                files.collect::<anyhow::Result<_>>()?
            }
        };
        let log = targets.log.as_deref().map(Log::open).transpose()?;
        Ok(Self {
            prefixes: prefixes.collect(),
            prefix: targets.prefix,
            streams: Streams::new(),
            programs: targets.programs,
            log,
            files,
            broken,
        })
    }

    fn print(&mut self, piece: Piece) {
        match piece {
            Piece::Output(output) => self.output(&output),
            Piece::Note(note) => self.note(&note),
            Piece::Flush(done) => {
                self.flush();
                let _caller_gone = done.send(());
            }
        }
    }

    fn output(&mut self, output: &Output) {
        if let Some(file) = self.files.get_mut(output.rank) {
            file.write(&output.text);
        }
        let Some(prefix) = self.prefixes.get(output.rank) else { return };
        // The log always has the names, by which `xlreg logs` tells the members apart.
        if let Some(log) = &mut self.log {
            log.write(&prefixed(&prefix.plain, &output.text));
        }
        if !self.programs {
            return;
        }
        let streams = &mut self.streams;
        let written = match output.stream {
            Stream::Stdout => {
                let prefix = prefix.shown(self.prefix, streams.stdout_coloured);
                streams.stdout.write_all(&prefixed(prefix, &output.text))
            }
            Stream::Stderr => {
                let prefix = prefix.shown(self.prefix, streams.stderr_coloured);
                // What it wrote before to the other stream comes before.
                let flushed = streams.stdout.flush();
                flushed.and_then(|()| streams.stderr.write_all(&prefixed(prefix, &output.text)))
            }
        };
        self.note_broken(written);
    }

    fn note(&mut self, note: &str) {
        if let Some(log) = &mut self.log {
            log.write(format!("xlreg: {note}\n").as_bytes());
        }
        let _first_the_programs = self.streams.stdout.flush();
        let _unread = writeln!(self.streams.stderr, "xlreg: {note}");
    }

    fn flush(&mut self) {
        let flushed = self.streams.stdout.flush();
        let _unread = self.streams.stderr.flush();
        self.note_broken(flushed);
        if let Some(log) = &mut self.log {
            log.sink.flush();
        }
        self.files.iter_mut().for_each(Sink::flush);
    }

    /// Nobody reads any more: then nobody needs the programs either, as in any pipe.
    fn note_broken(&mut self, written: io::Result<()>) {
        let Err(error) = written else { return };
        let why = match error.kind() {
            io::ErrorKind::BrokenPipe => "nobody reads the programs' output any more".to_owned(),
            _ => format!("cannot print the programs' output: {error}"),
        };
        self.programs = false;
        let _known_before = self.broken.set(format!("{why}, so they were stopped"));
    }
}

impl Streams {
    fn new() -> Self {
        let coloured = |choice| choice != ColorChoice::Never;
        Self {
            stdout_coloured: coloured(AutoStream::choice(&io::stdout())),
            stderr_coloured: coloured(AutoStream::choice(&io::stderr())),
            stdout: io::BufWriter::new(io::stdout()),
            stderr: io::BufWriter::new(io::stderr()),
        }
    }
}

impl Sink {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = opened
            .map_err(|error| anyhow::anyhow!("opening the log {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Some(io::BufWriter::new(file)) })
    }

    fn write(&mut self, text: &[u8]) {
        self.attempt(|file| file.write_all(text));
    }

    fn flush(&mut self) {
        self.attempt(io::BufWriter::flush);
    }

    fn attempt(&mut self, work: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = work(file) {
            let path = self.path.display();
            output::note(&format!("xlreg: {path}: {error}; what follows is not kept there"));
            // What could not be written would be tried again on drop.
            let _parts = self.file.take().map(io::BufWriter::into_parts);
        }
    }
}

impl Log {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let sink = Sink::open(path)?;
        // That of a kept cluster may go on from its last run.
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { sink, bytes })
    }

    fn write(&mut self, text: &[u8]) {
        self.bytes += text.len() as u64;
        if self.bytes > LOG_BYTES_MAX / 2 {
            self.sink.flush();
            let older = control::older(&self.sink.path);
            let renamed = std::fs::rename(&self.sink.path, older);
            if let (Ok(()), Ok(next)) = (renamed, Sink::open(&self.sink.path)) {
                self.sink = next;
                self.bytes = text.len() as u64;
            }
        }
        self.sink.write(text);
    }
}

/// Each line with the prefix before it, the last with a newline behind it.
fn prefixed(prefix: &[u8], text: &[u8]) -> Vec<u8> {
    if prefix.is_empty() {
        return text.to_vec();
    }
    let mut lines = Vec::with_capacity(text.len() + 2 * prefix.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        lines.extend_from_slice(prefix);
        lines.extend_from_slice(line);
    }
    if !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_the_prefix_and_the_last_a_newline() {
        assert_eq!(prefixed(b"a | ", b"one\n\ntwo"), b"a | one\na | \na | two\n");
        assert_eq!(prefixed(b"", b"one\ntwo"), b"one\ntwo");
    }
}
