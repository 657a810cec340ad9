//! What only a program's own process can do for it, between fork and exec.
//!
//! The one unsafe module of this crate: what runs there may only make calls that are safe after a
//! fork of a process with threads, which the language can't check. So it makes system calls, writes
//! digits into a buffer that was made before, and allocates nothing.

#![expect(unsafe_code, reason = "a hook between fork and exec can't be had safely")]

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The first of the passed sockets, by the protocol of systemd; those before are the standard ones.
const LISTEN_FDS_START: RawFd = 3;

/// Decimal digits that a process ID may have.
const PID_DIGITS: usize = 10;

/// Keeps the numbers that passed sockets get in the program from being those of anything that
/// matters in this process, such as the pipe by which the standard library tells of a failed exec.
#[derive(Debug)]
pub(crate) struct Reserved(#[expect(dead_code, reason = "held, not used")] Vec<OwnedFd>);

impl Reserved {
    /// Reserves the numbers for `sockets` sockets.
    pub(crate) fn new(sockets: usize) -> io::Result<Self> {
        let end = LISTEN_FDS_START + RawFd::try_from(sockets).unwrap_or(RawFd::MAX);
        let null = std::fs::File::open("/dev/null")?;
        let mut held = Vec::new();
        loop {
            let copy = duplicate(&null, LISTEN_FDS_START)?;
            if copy.as_raw_fd() >= end {
                return Ok(Self(held));
            }
            held.push(copy);
        }
    }
}

/// A copy of a descriptor with a number of at least `from`, closed on exec.
fn duplicate(of: &impl std::os::fd::AsFd, from: RawFd) -> io::Result<OwnedFd> {
    let fd: BorrowedFd<'_> = of.as_fd();
    // SAFETY: a system call on an open descriptor; it touches no memory of ours.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Has the program killed when the thread that starts it ends, with or without our whole process.
/// Its own children are not; whoever needs that watches from a process above. And gives it the limit on
/// open files that we had ourselves, before we raised it.
pub(crate) fn prepare(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: getpid can't fail and touches no memory.
        let parent = unsafe { libc::getpid() };
        let limit = crate::descriptors::former();
        let limit = limit.map(|(soft, hard)| libc::rlimit { rlim_cur: soft, rlim_max: hard });
        let hook = move || {
            // SAFETY: system calls that touch no memory of ours, but for the limit, which one of
            // them reads and which lives as long as the hook; all are safe after fork.
            unsafe {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have gone before we asked.
                if libc::getppid() != parent {
                    libc::_exit(1);
                }
                if let Some(limit) = &limit
                    && libc::setrlimit(libc::RLIMIT_NOFILE, limit) != 0
                {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the hook makes system calls only, as said above.
        unsafe { command.pre_exec(hook) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Passes listening sockets by the protocol of systemd: descriptors from 3 on, `LISTEN_FDS`,
/// `LISTEN_FDNAMES` and `LISTEN_PID`, which must be the program's own process ID and so is known
/// after the fork only. That is why this hook calls exec itself.
///
/// `environment` is all of the program's; `program` must be a path.
pub(crate) fn pass_sockets(
    command: &mut Command,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    environment: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    sockets: Vec<(String, OwnedFd)>,
) -> io::Result<()> {
    let count = sockets.len();
    let (names, sockets): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
    let end = LISTEN_FDS_START + RawFd::try_from(count).unwrap_or(RawFd::MAX);
    // Above the numbers they get, so that none is overwritten before its turn.
    let copies = sockets.iter().map(|socket| duplicate(socket, end));
    let copies = copies.collect::<io::Result<Vec<_>>>()?;

    let mut words = vec![c_string(program.as_os_str())?];
    for argument in arguments {
        words.push(c_string(argument.as_ref())?);
    }
    let mut variables = Vec::new();
    for (name, value) in environment {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variables.push(c_string(&variable)?);
    }
    variables.push(c_string(OsStr::new(&format!("LISTEN_FDS={count}")))?);
    variables.push(c_string(OsStr::new(&format!("LISTEN_FDNAMES={}", names.join(":"))))?);
    let mut image = Image::new(words, variables);

    let hook = move || {
        for (copy, number) in copies.iter().zip(LISTEN_FDS_START..) {
            // SAFETY: a system call on our descriptors, safe after fork. The copy does not close
            // on exec.
            if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Err(image.execute())
    };
    // SAFETY: the hook makes system calls and writes into its own buffer, as said above.
    unsafe { command.pre_exec(hook) };
    Ok(())
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// All that exec needs, made before the fork.
struct Image {
    /// The program's path and arguments, and its environment: what the pointers below point to.
    words: Vec<CString>,
    _variables: Vec<CString>,
    /// `LISTEN_PID=`, and room for digits and the final zero.
    pid: Box<[u8]>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into the image's own buffers, which move with it on the heap.
unsafe impl Send for Image {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Image {}

impl Image {
    const PID: &[u8] = b"LISTEN_PID=";

    fn new(words: Vec<CString>, variables: Vec<CString>) -> Self {
        let pid = [Self::PID, &[0; PID_DIGITS + 1]].concat().into_boxed_slice();
        let argv = words.iter().map(|word| word.as_ptr());
        let argv = argv.chain([std::ptr::null()]).collect();
        // The first is the place of `LISTEN_PID`.
        let envp = std::iter::once(std::ptr::null());
        let envp = envp.chain(variables.iter().map(|variable| variable.as_ptr()));
        let envp = envp.chain([std::ptr::null()]).collect();
        Self { words, _variables: variables, pid, argv, envp }
    }

    /// Becomes the program; returns why it could not.
    fn execute(&mut self) -> io::Error {
        // SAFETY: getpid can't fail and touches no memory.
        let mut rest = unsafe { libc::getpid() }.unsigned_abs();
        let mut digits = [0u8; PID_DIGITS];
        let mut count = 0;
        for digit in &mut digits {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        let room = self.pid.iter_mut().skip(Self::PID.len());
        for (place, digit) in room.zip(digits.iter().take(count).rev()) {
            *place = *digit;
        }
        let (Some(program), Some(place)) = (self.words.first(), self.envp.first_mut()) else {
            return io::ErrorKind::InvalidInput.into();
        };
        *place = self.pid.as_ptr().cast();
        // SAFETY: all pointers point to strings that end with zero and live as long as `self`, and
        // both lists end with a null pointer.
        unsafe { libc::execve(program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}
