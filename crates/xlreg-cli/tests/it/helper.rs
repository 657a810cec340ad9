//! A program for other tests to start: this very test binary, asked for one test that is none.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;

/// How long peers may take to get up.
const DEADLINE: Duration = Duration::from_secs(90);

/// The words that start a program which listens.
pub(crate) fn listen() -> Vec<String> {
    words("helper::listens")
}

/// The words that start a program which talks with its peers.
pub(crate) fn talk() -> Vec<String> {
    words("helper::talks")
}

fn words(test: &str) -> Vec<String> {
    let me = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let words = [test, "--exact", "--ignored", "--nocapture"];
    [me].into_iter().chain(words.map(str::to_owned)).collect()
}

/// Tells each peer a secret by plain TCP, where the roster has it, and prints what it answers; and
/// answers whoever has said all of what he has to say, which shows by the end of his half.
#[test]
#[ignore = "a program that other tests start"]
fn talks() {
    let name = env::var("XLREG_NAME").unwrap();
    let listener = TcpListener::bind(env::var("XLREG_ENDPOINT").unwrap()).unwrap();
    let own = name.clone();
    let answering = thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut heard) = (stream.unwrap(), String::new());
            // One that is reset has nothing to say.
            if stream.read_to_string(&mut heard).is_ok() {
                let _gone = write!(stream, "{own} has heard: {heard}");
            }
        }
    });
    let roster = fs::read_to_string(env::var("XLREG_ROSTER").unwrap()).unwrap();
    let roster: Value = serde_json::from_str(&roster).unwrap();
    for member in roster["members"].as_array().unwrap() {
        if member["name"] != *name {
            let endpoint = member["endpoints"][0].as_str().unwrap();
            println!("\n{}", ask(endpoint, &format!("a secret of {name}")));
        }
    }
    println!("\ntold all: {name}");
    answering.join().unwrap();
}

/// Says this to a program that talks, ends that half, and returns what comes back; again until somebody
/// answers.
#[track_caller]
pub(crate) fn ask(endpoint: &str, words: &str) -> String {
    let attempt = || -> io::Result<String> {
        let mut stream = TcpStream::connect(endpoint)?;
        stream.write_all(words.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let by = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Ok(answer) if !answer.is_empty() => return answer,
            failed => assert!(Instant::now() < by, "{endpoint} does not answer: {failed:?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Listens on all endpoints of the member that it is, and tells its name to who connects.
#[test]
#[ignore = "a program that other tests start"]
fn listens() {
    let name = env::var("XLREG_NAME").unwrap();
    let endpoints = ["XLREG_ENDPOINT", "XLREG_ENDPOINT1"].map(env::var);
    let listeners = endpoints.into_iter().flatten().map(|endpoint| {
        let (listener, name) = (TcpListener::bind(endpoint).unwrap(), name.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(name.as_bytes()).unwrap();
            }
        })
    });
    let listeners: Vec<_> = listeners.collect();
    // The test harness prints without a newline before.
    println!("\nlistening {name}");
    listeners.into_iter().for_each(|listener| listener.join().unwrap());
}

/// It is no use to anybody if it does not start.
#[test]
fn without_a_place_the_helper_fails() {
    let words = listen();
    let mut command = Command::new(&words[0]);
    let output = command.args(&words[1..]).env_remove("XLREG_NAME").output().unwrap();
    assert!(!output.status.success());
}
