//! What can't be built is refused, before anything is made.

use xlreg::testing::{Builder, TestCluster, TestError};

fn any() -> Builder {
    TestCluster::builder()
}

#[tokio::test]
async fn what_can_not_be_is_refused() {
    let nothing = |_| std::future::ready(());
    for (builder, why) in [
        (any().size(0), "2 to 64 members, not 0"),
        (any().size(1), "2 to 64 members, not 1"),
        (any().size(65), "2 to 64 members, not 65"),
        (any().size(usize::MAX), "2 to 64 members"),
        (any().endpoints(0), "1 or 2 endpoints, not 0"),
        (any().endpoints(3), "1 or 2 endpoints, not 3"),
        (any().name(""), "can't be named"),
        (any().name("no spaces"), "can't be named"),
        (any().arg("x"), "need a program"),
        (any().env("x", "y"), "need a program"),
        (any().serve(nothing).arg("x"), "need a program"),
        (any().ready("tcp"), "needs programs"),
        (any().serve(nothing).ready("line:x"), "needs programs"),
        (any().serve(nothing).command("x"), "either serve or command"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, TestError::Builder(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(format!("{error:?}"), error.to_string(), "for those who unwrap");
    }
}

#[tokio::test]
async fn so_are_placeholders_and_checks_that_make_no_sense() {
    let program = || any().command("true");
    for builder in [program().arg("{ranks}"), program().env("x", "{endpoint1}")] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, TestError::Template { .. }), "{error}");
    }
    for builder in [program().ready("soon"), program().ready("line:(")] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, TestError::Readiness(_)), "{error}");
    }
}

#[tokio::test]
#[should_panic(expected = "ranks are 0 to `size` - 1")]
async fn asking_for_a_rank_that_nobody_has_panics() {
    let cluster = any().size(2).start().await.unwrap();
    let _nobody = cluster.member(2);
}
