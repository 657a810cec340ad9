//! Members that are programs: what they are told, what they write, and what can be done to them.

use std::time::Duration;

use xlreg::testing::{Builder, MemberState, TestCluster, TestError};

/// A cluster of shells. Each says so when it is up.
fn shells(script: &str) -> Builder {
    TestCluster::builder().size(2).command("sh").args(["-c", script]).ready("line:^up")
}

#[tokio::test]
async fn they_are_told_what_xlreg_run_would_tell_them() {
    let script = r#"echo "$XLREG_NAME $XLREG_RANK $XLREG_SIZE $XLREG_CLUSTER $1 $TWICE";
                    test -f "$XLREG_ROSTER" && test "$XLREG_ENDPOINT" = "$2" && cd "$XLREG_DIR" &&
                    test -z "$XLREG_REGISTRY$XLREG_IDENTITY" && pwd >&2; echo up; sleep 600"#;
    let cluster = shells(script)
        .args(["sh", "{peers , {rank}:{port}}", "{endpoint}"])
        .env("TWICE", "{rank}{rank}")
        .start()
        .await
        .unwrap();
    cluster.wait_ready().await.unwrap();
    for rank in 0..2 {
        let (me, other) = (cluster.member(rank), cluster.member(1 - rank));
        let (name, port) = (cluster.roster().title(), other.address(0).port());
        let dir = me.dir().display().to_string();
        cluster.wait_output(rank, &dir).await.unwrap();
        let output = cluster.output(rank);
        let expected =
            format!("member_{rank} {rank} 2 {name} {}:{port} {rank}{rank}\n", other.rank());
        assert!(output.contains(&expected), "{output}");
        assert!(output.contains("up\n"), "{output}");
    }
    cluster.stop().await.unwrap();
}

/// Each has its own files, that of everybody's trust among them, and is asked by `https:` with them.
#[tokio::test]
async fn with_tls_they_have_files_for_it() {
    let script = r#"test "$XLREG_CERT $XLREG_KEY $XLREG_ROSTER_CA" = "$1" && cd "$XLREG_DIR" &&
                    stat -c '%a %n' cert.pem key.pem roster-ca.pem && echo up; sleep 600"#;
    let cluster = shells(script).tls().args(["sh", "{cert} {key} {roster_ca}"]).start().await;
    let cluster = cluster.unwrap();
    cluster.wait_ready().await.unwrap();
    for rank in 0..2 {
        let output = cluster.output(rank);
        assert!(output.ends_with("644 cert.pem\n600 key.pem\n644 roster-ca.pem\nup\n"), "{output}");
        let (member, key) = (cluster.member(rank), cluster.member(rank).dir().join("key.pem"));
        let tls = member.tls().unwrap();
        assert_eq!(std::fs::read_to_string(key).unwrap(), *tls.key_pem());
    }
    cluster.stop().await.unwrap();

    let without = shells("").ready("https://{endpoint}/").start().await.err().unwrap();
    assert!(matches!(without, TestError::Readiness(_)), "{without}");
    let without = shells("").arg("{key}").start().await.err().unwrap();
    assert!(matches!(without, TestError::Template { .. }), "{without}");
}

#[tokio::test]
async fn one_is_killed_paused_and_started_again() {
    let script = r#"echo start >>"$XLREG_DIR/starts"; echo up $(wc -l <"$XLREG_DIR/starts");
                    while read -r word; do echo "got $word"; done; exec sleep 600"#;
    let cluster = shells(script).start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.pause(0).await.unwrap();
    assert_eq!(cluster.state(0), MemberState::Paused);
    cluster.resume(0).await.unwrap();
    assert_eq!(cluster.state(0), MemberState::Running);
    cluster.pause(0).await.unwrap();
    cluster.kill(0).await.unwrap();
    assert_eq!(cluster.state(0), MemberState::Killed);
    let error = cluster.pause(0).await.unwrap_err();
    assert!(matches!(error, TestError::NotRunning { .. }), "{error}");
    assert_eq!(cluster.state(1), MemberState::Running);
    cluster.wait_ready().await.unwrap();

    // Ready means since it was last started, and so does written.
    for time in 2..5 {
        cluster.restart(0).await.unwrap();
        cluster.wait_ready().await.unwrap();
        let up = format!("up {time}\n");
        cluster.wait_output(0, &up).await.unwrap();
        assert_eq!(cluster.output(0), up);
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_ends_before_it_is_ready_is_named_with_its_words() {
    let script = r#"test "$XLREG_RANK" = 0 && exec sleep 600; echo "no luck" >&2; exit 3"#;
    let cluster = shells(script).start().await.unwrap();
    let error = cluster.wait_ready().await.unwrap_err();
    for word in ["member_1", "exit status: 3", "no luck"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = cluster.wait_output(1, "luck, at last").await.unwrap_err();
    assert!(matches!(error, TestError::NotWritten { .. }), "{error}");
    cluster.wait_output(1, "luck").await.unwrap();
    let error = cluster.stop().await.unwrap_err();
    assert!(error.to_string().contains("member_1: exit status: 3"), "{error}");
}

#[tokio::test]
async fn programs_that_do_their_work_and_end_are_waited_for() {
    let cluster = shells("echo result $((XLREG_RANK + 40))").start().await.unwrap();
    cluster.wait_ended().await.unwrap();
    assert_eq!((&*cluster.output(0), &*cluster.output(1)), ("result 40\n", "result 41\n"));
    cluster.stop().await.unwrap();
}

/// Unless told otherwise, a program is ready once it listens.
#[tokio::test]
async fn those_that_do_not_listen_are_not_ready() {
    let builder = TestCluster::builder().command("sleep").arg("600");
    let cluster = builder.timeout(Duration::from_secs(2)).start().await.unwrap();
    let error = cluster.wait_ready().await.unwrap_err();
    let TestError::NotReady { late, size: 3, .. } = &error else { panic!("{error}") };
    assert_eq!(late.len(), 3);
    assert!(late[2].contains("member_2 runs: ") && late[2].contains("refused"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let error = TestCluster::builder().command("/no/such/program").start().await.unwrap_err();
    assert!(matches!(error, TestError::Start { .. }), "{error}");
    assert!(error.to_string().contains("cannot start /no/such/program for member_0"), "{error}");
}
