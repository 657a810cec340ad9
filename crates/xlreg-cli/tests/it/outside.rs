//! `ps`, `logs`, `down` and orders to members: which run and which member they mean.

use crate::support::World;

#[test]
fn the_only_run_that_lives_is_meant_and_a_member_that_is_not_there_is_named() {
    let world = World::new();
    let failing = ["sh", "-c", "echo up; exit 3"];
    let flags = ["--ready", "line:up"];
    let args =
        [&["run", "-n", "2", "--cluster", "dead", "--detach"], &flags[..], &["--"], &failing];
    // Up or not, as it happens; ended in any case.
    world.run(&args.concat());
    world.detach("alive", "2", &[], &["sleep", "600"]);

    world.run(&["pause", "1"]).expect(0);
    for order in ["pause", "resume", "kill", "restart"] {
        let done = world.run(&[order, "member_7"]);
        done.expect(5).says(&["cluster alive has no member member_7; it has member_0, member_1"]);
    }
    world.run(&["down"]).expect(0).says(&["alive is down"]);
    world.run(&["down", "dead"]);
    world.run(&["down"]).expect(5).says(&["no cluster runs here"]);
}
