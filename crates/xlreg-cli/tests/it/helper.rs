//! A program for other tests to start: this very test binary, asked for one test that is none.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;
use std::{env, thread};

/// The words that start it.
pub(crate) fn listen() -> Vec<String> {
    let me = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let words = ["helper::listens", "--exact", "--ignored", "--nocapture"];
    [me].into_iter().chain(words.map(str::to_owned)).collect()
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
