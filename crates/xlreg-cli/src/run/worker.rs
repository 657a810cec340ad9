//! The process that does the work of a run, below its guard.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{SetOnce, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use xlreg::Name;
use xlreg_launch::output::{OUTPUT_QUEUE, Output};
use xlreg_launch::program::{Ports, Spawner, Spec};
use xlreg_launch::supervise::{Ended, Failure, OnExit, Policy, supervise};
use xlreg_launch::{Check, Places, TlsFiles, Values};
use xlreg_node::KeyPool;

use super::console::{Console, Targets};
use super::control::{self, Control};
use super::events::Teller;
use super::form::{self, Formed, Member};
use super::getting_up::GettingUp;
use super::guest::Guest;
use super::plan::Plan;
use super::tunnels::Tunnels;
use super::{PortMode, descendants, dir, events, guard, interrupted, misuse};
use crate::exit::{self, Code, Ending};
use crate::output;
use crate::progress::SharedBar;

/// How long to wait for what was printed to be read, when all is over and somebody waits for that.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How long to wait for word that all is up from programs that have ended well.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long programs may take to stop before somebody who waits is told what he can do.
const STOPS_SOON: Duration = Duration::from_secs(1);

/// What asks a run to end, each in its own way.
#[derive(Clone, Debug, Default)]
struct Stops {
    /// A signal, or one of the others: stop in good order.
    stop: CancellationToken,
    /// A second signal, or the guard is gone: kill at once.
    hurry: CancellationToken,
    /// Somebody asked by `xlreg down`.
    down: CancellationToken,
    /// Why the programs' output can't be printed any more.
    broken: Arc<SetOnce<String>>,
    /// The guard was killed: nobody cleans up after us.
    orphaned: CancellationToken,
}

pub(crate) fn main(plan: &Plan, pool: Option<KeyPool>) -> anyhow::Result<Code> {
    #[cfg(target_os = "linux")]
    {
        let name = std::ffi::CString::new(guard::WORKER_NAME)?;
        nix::sys::prctl::set_name(&name).context("naming the process")?;
    }
    descendants::adopt_orphans()?;
    let run_dir = plan.run_dir.clone().context("a worker without its run's directory")?;
    // Two threads: all that takes long happens elsewhere, and most of the time nothing happens.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    let stops = Stops::default();
    let (ended, stays) = runtime.block_on(run(plan, pool, &run_dir, &stops));
    // Keys may still be in the making; only when the runtime has ended will nobody write any more.
    drop(runtime);
    descendants::kill_all(&HashSet::new());
    let outcome = remains(plan, &run_dir, &ended, stays, &stops);
    let cleaned = clean_up(&run_dir, outcome.as_deref(), &stops);
    Ok(ended.and_then(|code| cleaned.map(|()| code)).unwrap_or_else(report))
}

/// Tells of the error.
fn report(error: anyhow::Error) -> Code {
    let code = exit::code(&error);
    tell(move || {
        exit::report(&error);
    });
    code
}

/// Says something; but not for longer than somebody might take to read it.
fn tell(say: impl FnOnce() + Send + 'static) {
    let (told, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        say();
        let _nobody_waits = told.send(());
    });
    let _unread = wait.recv_timeout(LAST_LINES);
}

/// What to leave word of: how a detached run ended that nobody has asked to end; of one that was taken
/// down, what `stays`, since whoever did that sees nothing of what we say.
fn remains(
    plan: &Plan,
    run_dir: &Path,
    ended: &anyhow::Result<Code>,
    stays: Option<String>,
    stops: &Stops,
) -> Option<String> {
    if plan.detach && stops.down.is_cancelled() {
        return stays;
    }
    // Without a log there is nothing to look at; then it has told whoever has started it.
    let has_log = run_dir.join(control::LOG_FILE).exists();
    if !plan.detach || is_wanted(stops) || !has_log {
        return None;
    }
    Some(match ended {
        Ok(_) => "all programs have ended".to_owned(),
        Err(error) => exit::message(error),
    })
}

/// Whether somebody has asked for the end.
fn is_wanted(stops: &Stops) -> bool {
    stops.down.is_cancelled() || stops.stop.is_cancelled()
}

/// Removes all that the run made, but for the log and the word of a detached one.
fn clean_up(run_dir: &Path, word: Option<&str>, stops: &Stops) -> anyhow::Result<()> {
    let cleaned = match word {
        Some(word) => dir::leave_word(run_dir, word),
        None if stops.orphaned.is_cancelled() => dir::sweep(run_dir).map(drop),
        // The guard does it.
        None => Ok(()),
    };
    cleaned.with_context(|| format!("cleaning up {}", run_dir.display()))
}

/// Returns how it ended, and what has to stay where it is, if anything has.
async fn run(
    plan: &Plan,
    pool: Option<KeyPool>,
    run_dir: &Path,
    stops: &Stops,
) -> (anyhow::Result<Code>, Option<String>) {
    let listening = listen_for_signals(stops).and_then(|()| {
        listen_for_the_guard(stops);
        Control::listen(run_dir)
    });
    let listener = match listening {
        Ok(listener) => listener,
        Err(error) => return (Err(error), None),
    };
    let control = Arc::new(Control::new(stops.down.clone()));
    let _answering = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&control).serve(listener)));
    let guest = OnceCell::new();
    let ended = form_and_launch(plan, pool, run_dir, &control, stops, &guest).await;
    let Some(guest) = guest.get() else { return (ended, None) };
    let stays = guest.go().await;
    if let Some(problem) = stays.clone() {
        tell(move || output::note(&format!("xlreg: {problem}")));
    }
    (ended, stays)
}

async fn form_and_launch(
    plan: &Plan,
    pool: Option<KeyPool>,
    run_dir: &Path,
    control: &Control,
    stops: &Stops,
    guest: &OnceCell<Guest>,
) -> anyhow::Result<Code> {
    let began = Instant::now();
    // Stops the making of keys as well, however we leave.
    let unwanted = CancellationToken::new();
    let _on_leaving = unwanted.clone().drop_guard();
    let formed = tokio::select! {
        formed = form::form(plan, pool, &unwanted, guest) => formed?,
        () = stops.stop.cancelled() => return Err(interrupted().into()),
        () = stops.down.cancelled() => return Err(down_too_early().into()),
    };
    launch(plan, formed, run_dir, control, stops, began).await
}

/// The first asks to stop, the second to hurry. But nobody hurries us by hanging up: a terminal and
/// its shell both do, and so does the system's service manager after it has asked.
fn listen_for_signals(stops: &Stops) -> anyhow::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, stops) = (signal(kind)?, stops.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if stops.stop.is_cancelled() && kind != SignalKind::hangup() {
                    stops.hurry.cancel();
                }
                stops.stop.cancel();
            }
        });
    }
    Ok(())
}

/// Our input is a pipe that only the guard holds.
fn listen_for_the_guard(stops: &Stops) {
    let stops = stops.clone();
    std::thread::spawn(move || {
        let _closed = std::io::stdin().lock().read(&mut [0]);
        stops.orphaned.cancel();
        stops.hurry.cancel();
        stops.stop.cancel();
    });
}

/// Starts the programs, and stays until they are over.
async fn launch(
    plan: &Plan,
    mut formed: Formed,
    run_dir: &Path,
    control: &Control,
    stops: &Stops,
    began: Instant,
) -> anyhow::Result<Code> {
    let names: Vec<_> = formed.members.iter().map(|member| member.name.clone()).collect();
    let log = log_path(plan, run_dir);
    let (mut specs, mut checks, mut written) = (Vec::new(), Vec::new(), HashSet::new());
    for rank in 0..names.len() {
        let (spec, check) = prepare(plan, &mut formed, rank, &mut written)?;
        specs.push(spec);
        checks.extend(check.map(Arc::new));
    }
    let targets = Targets {
        programs: !plan.detach,
        prefix: plan.prefix,
        log: log.clone(),
        dir: plan.log_dir.clone(),
    };
    if let Some(log) = log.as_deref().filter(|_| plan.keep.is_some()) {
        // It is found in the run's directory, as any other.
        std::os::unix::fs::symlink(log, run_dir.join(control::LOG_FILE))
            .context("linking the log of the kept cluster")?;
    }
    let console = Console::start(&names, &targets, stops.broken.clone())?;
    let _reaper = AbortOnDropHandle::new(tokio::spawn(events::reap_orphans()));
    let mut tunnels = tokio::select! {
        open = Tunnels::start(plan, &mut formed, run_dir, &console) => open?,
        why = asked_to_end(stops) => return Err(why.err().unwrap_or_else(|| down_too_early().into())),
    };
    let policy = Policy { on_exit: plan.on_exit, grace: plan.grace, linger: false, lasting: false };
    let spawner = Arc::new(Spawner::new().context("starting programs")?);
    let (send, output) = mpsc::channel(OUTPUT_QUEUE);
    let (tell, happening) = mpsc::unbounded_channel();
    let (handle, mut supervisor) = supervise(specs, spawner, policy, send, tell);
    let up = CancellationToken::new();
    let bar = SharedBar::new("programs up");
    let printing = tokio::spawn(print(output, checks.clone(), console.clone(), bar.clone()));
    // The failure that stops all is told as the run's own.
    let teller = Teller {
        names: names.iter().map(ToString::to_string).collect(),
        failures: plan.on_exit != OnExit::Stop,
        lasting: false,
        up: up.clone(),
        bar,
    };
    let telling = tokio::spawn(teller.tell(happening, console.clone()));
    control.launched(describe(plan, &formed, log), handle.clone(), tunnels.handle());

    let all_up = CancellationToken::new();
    let getting_up =
        GettingUp { plan, checks: &checks, console: &console, up: &up, all_up: &all_up, began };
    let mut staying = pin!(getting_up.and_stay(&formed));
    let stopped = tokio::select! {
        biased;
        ended = &mut supervisor => Err(ended.context("supervising the programs")?),
        failed = &mut staying => Ok(Err(failed)),
        failed = tunnels.failed() => Ok(Err(failed)),
        why = asked_to_end(stops) => Ok(why),
    };
    let asked = stopped.is_ok();
    let outcome = match stopped {
        Ok(why) => {
            handle.stop();
            let hint = async {
                sleep(STOPS_SOON).await;
                let grace = output::took(plan.grace);
                console.note(format!("stopping; killing in {grace}, or when asked again")).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _over = &mut supervisor => {}
                () = hint => {}
                () = stops.hurry.cancelled() => {
                    handle.kill();
                    let _over = (&mut supervisor).await;
                }
            }
            match why {
                Ok(_) if plan.detach && !all_up.is_cancelled() => Err(down_too_early().into()),
                why => why,
            }
        }
        Err(Ended::Done | Ended::Stopped) if plan.has_to_get_up() => {
            // Word of the last join, or the last line, may still be on its way.
            tokio::select! {
                biased;
                () = all_up.cancelled() => Ok(Code::Done),
                // That time is up is true, too, but more of it would not help.
                failed = staying => Err(match exit::code(&failed) {
                    Code::Incomplete => ended_early(plan).into(),
                    _ => failed,
                }),
                () = sleep(LAST_WORD) => Err(ended_early(plan).into()),
            }
        }
        Err(ended) => {
            if !plan.has_to_get_up() && all_have_started(plan, &ended) {
                // If only for an instant; so say it.
                tokio::select! {
                    _failed = staying => {}
                    () = all_up.cancelled() => {}
                    () = wanted_long_ago(stops) => {}
                }
            }
            match ended {
                Ended::Failed { rank, failure } => Err(failed(plan, &names, rank, &failure).into()),
                Ended::Done | Ended::Stopped => Ok(Code::Done),
            }
        }
    };
    // Only now: who stops may have something to say to its peers.
    let carried = tunnels.stop().await;
    let outcome = outcome.and_then(|code| if asked { Ok(code) } else { carried.map(|()| code) });
    if plan.detach
        && let Err(error) = &outcome
    {
        if all_up.is_cancelled() {
            // Whoever started it has gone, and looks at the log for why it ended.
            console.note(exit::message(error)).await;
        } else if !is_wanted(stops) {
            let id = run_dir.file_name().unwrap_or_default().to_string_lossy();
            let note =
                format!("what its programs wrote is kept: xlreg logs -c {id}; xlreg down {id}");
            console.note(note).await;
        }
    }
    let printed = async {
        let _printed = printing.await;
        let _told = telling.await;
        console.flush().await;
    };
    // All that was written is on its way, and whoever reads it may take his time; but once somebody
    // wants an end, not for long.
    tokio::select! {
        () = printed => {}
        () = wanted_long_ago(stops) => {}
    }
    outcome
}

fn down_too_early() -> Ending {
    Ending::new(Code::Interrupted, "stopped by xlreg down before all was up")
}

/// Waits until somebody has wanted it to end for a while, or wants it at once.
async fn wanted_long_ago(stops: &Stops) {
    let wanted = async {
        let _how = asked_to_end(stops).await;
        sleep(LAST_LINES).await;
    };
    tokio::select! {
        () = wanted => {}
        () = stops.hurry.cancelled() => {}
    }
}

/// Waits until somebody wants it to end; how it ends then.
async fn asked_to_end(stops: &Stops) -> anyhow::Result<Code> {
    tokio::select! {
        () = stops.stop.cancelled() => Err(interrupted().into()),
        () = stops.down.cancelled() => Ok(Code::Done),
        why = stops.broken.wait() => Err(Ending::new(Code::Failed, why).into()),
    }
}

/// Whether programs that ended by themselves were up by having started, all of them.
fn all_have_started(plan: &Plan, ended: &Ended) -> bool {
    match ended {
        Ended::Done | Ended::Stopped => true,
        Ended::Failed { failure: Failure::Exit(_), .. } => plan.on_exit == OnExit::Ignore,
        Ended::Failed { failure: Failure::Start(_), .. } => false,
    }
}

fn ended_early(plan: &Plan) -> Ending {
    let goal = if plan.self_join { "joined the cluster" } else { "were ready" };
    let message = format!(
        "the programs have ended before all {goal}; do they go to the background? they must stay \
         in the foreground"
    );
    Ending::new(Code::Incomplete, message)
}

fn failed(plan: &Plan, names: &[Name], rank: usize, failure: &Failure) -> Ending {
    let name = names.get(rank).map_or("a program", Name::as_str);
    let message = match failure {
        Failure::Start(error) => {
            format!("cannot start {} for {name}: {error}; {}", plan.program, advice(error))
        }
        Failure::Exit(status) => format!("{name} failed: {status}"),
    };
    Ending::new(Code::Failed, message)
}

/// What to do about a program that can't be started.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => {
            "give its path, or a name on your PATH; if it is a script, is what its first line names \
             there?"
        }
        ErrorKind::PermissionDenied => "is it a program, and executable? chmod +x it",
        _ => "is it a program for this machine? a script begins with #! and its interpreter",
    }
}

/// What to start for a member, and how to tell that it is ready. Its ports go with that; its files
/// are `written`.
fn prepare(
    plan: &Plan,
    formed: &mut Formed,
    rank: usize,
    written: &mut HashSet<PathBuf>,
) -> anyhow::Result<(Spec, Option<Check>)> {
    let ports = formed.members.get_mut(rank).map(|member| std::mem::take(&mut member.ports));
    let member = formed.members.get(rank).context("a rank beyond the members")?;
    let cluster = plan.cluster.as_str();
    let values = match &formed.places {
        Some(places) => {
            let places = member.view(places);
            Values::Member { places, rank, roster_file: &member.roster_file }
        }
        None => Values::Alone { name: &member.name, cluster, size: plan.size, dir: &member.dir },
    };
    let mut environment = environment(plan, formed, member, rank);
    let run_dir = plan.run_dir.clone().context("a worker without its run's directory")?;
    let mark = dir::mark(&run_dir).context("reading the run's number")?;
    environment.push((dir::MARK.into(), Some(mark.clone())));
    for (name, template) in &plan.variables {
        let value = template.fill_with(&values);
        environment.push((name.into(), Some(value.into())));
    }
    for file in &plan.files {
        let named = PathBuf::from(file.path.fill_with(&values));
        if named.components().any(|part| part == Component::ParentDir) {
            let message = format!(
                "--template: {} leads out of where it begins; name it from the root, or below the \
                 member's directory",
                named.display()
            );
            return Err(misuse(message));
        }
        let path = member.dir.join(named);
        refuse_tls_file(plan, member, &path)?;
        if !written.insert(path.clone()) {
            let message = format!(
                "--template: {} would be written more than once; name it with {{name}}, or relative, \
                 which is below the member's directory",
                path.display()
            );
            return Err(misuse(message));
        }
        let doing = || format!("writing {} for {}", path.display(), member.name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(doing)?;
        }
        std::fs::write(&path, file.content.fill_with(&values)).with_context(doing)?;
    }
    let check = plan
        .ready
        .as_ref()
        .map(|ready| ready.check(&values, environment.clone(), member.tls.as_ref()));
    let fixed = !plan.fixed_ports.is_empty();
    let ports = match plan.ports {
        PortMode::Passed => Ports::Passed(ports.unwrap_or_default()),
        // An address of its own is nobody else's: no need to hold what is fixed there.
        PortMode::Held if !fixed => Ports::Held(ports.unwrap_or_default()),
        PortMode::Held | PortMode::Free => Ports::Free,
    };
    let spec = Spec {
        name: member.name.clone(),
        program: plan.program.clone().into(),
        arguments: plan.arguments.iter().map(|text| text.fill_with(&values).into()).collect(),
        environment,
        marks: vec![
            (dir::MARK.into(), mark),
            ("XLREG_DIR".into(), member.dir.clone().into_os_string()),
        ],
        ports,
    };
    Ok((spec, check.transpose()?))
}

/// A file of the user's can't be where one of ours is.
fn refuse_tls_file(plan: &Plan, member: &Member, path: &Path) -> anyhow::Result<()> {
    let TlsFiles { cert, key, roster_ca } = member.tls_files();
    if plan.tls && [cert, key, roster_ca].iter().any(|own| own == path) {
        let message = format!(
            "--template: {} is where --tls puts a file of its own; choose another name",
            path.display()
        );
        return Err(misuse(message));
    }
    Ok(())
}

/// The `XLREG_*` variables. Our caller's registry is not this cluster's.
fn environment(
    plan: &Plan,
    formed: &Formed,
    member: &Member,
    rank: usize,
) -> Vec<(OsString, Option<OsString>)> {
    let mut variables: Vec<(&str, Option<OsString>)> =
        Places::FOREIGN.map(|name| (name, None)).to_vec();
    let dir = || Some(member.dir.clone().into_os_string());
    if let Some(places) = &formed.places {
        let places = member.view(places);
        let roster = places.variables(rank, &member.roster_file).unwrap_or_default();
        variables.extend(roster.into_iter().map(|(name, value)| (name, value.map(Into::into))));
    } else if let Some(gate) = &formed.gate {
        variables.extend(Places::variable_names().map(|name| (name, None)));
        variables.extend([
            ("XLREG_REGISTRY", Some(gate.credentials_file.clone().into_os_string())),
            ("XLREG_IDENTITY", dir()),
            ("XLREG_DIR", dir()),
            ("XLREG_NAME", Some(member.name.to_string().into())),
            ("XLREG_CLUSTER", Some(plan.cluster.to_string().into())),
            ("XLREG_CLUSTER_ID", Some(formed.cluster_id.clone().into())),
            ("XLREG_SIZE", Some(plan.size.to_string().into())),
        ]);
    }
    variables.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// Where a detached run keeps its log.
fn log_path(plan: &Plan, run_dir: &Path) -> Option<PathBuf> {
    let dir = plan.keep.as_ref().map_or(run_dir, |keep| &keep.dir);
    plan.detach.then(|| dir.join(control::LOG_FILE))
}

/// The run as it is told to those who ask.
fn describe(plan: &Plan, formed: &Formed, log: Option<PathBuf>) -> control::Run {
    let members = formed.members.iter().enumerate().map(|(rank, member)| {
        let place = formed.places.as_ref().and_then(|places| places.members.get(rank));
        let endpoints = place.map(|place| place.endpoints.iter().map(ToString::to_string));
        control::Member {
            rank,
            name: member.name.to_string(),
            state: "starting".to_owned(),
            exit_code: None,
            signal: None,
            pid: None,
            restarts: 0,
            endpoints: endpoints.map(Iterator::collect).unwrap_or_default(),
            tunnel: member.tunnel.as_ref().map(|tunnel| control::Tunnel {
                program: tunnel.program.to_string(),
                state: "running".to_owned(),
                pid: None,
                restarts: 0,
            }),
            dir: member.dir.clone(),
        }
    });
    control::Run {
        cluster: plan.cluster.to_string(),
        cluster_id: formed.cluster_id.clone(),
        pid: std::process::id(),
        detached: plan.detach,
        since: control::Run::now(),
        log,
        members: members.collect(),
    }
}

/// Prints what the programs write, and shows it to whoever waits for a certain line. The bar gives
/// way to the first of it.
async fn print(
    mut output: mpsc::Receiver<Output>,
    checks: Vec<Arc<Check>>,
    console: Console,
    bar: SharedBar,
) {
    let mut ready = vec![false; checks.len()];
    while let Some(output) = output.recv().await {
        bar.put_away();
        if let (Some(check), Some(ready)) = (checks.get(output.rank), ready.get_mut(output.rank))
            && !*ready
        {
            let mut lines = output.text.split_inclusive(|byte| *byte == b'\n');
            *ready = lines.any(|line| check.sees_line(line));
        }
        console.output(output).await;
    }
}
