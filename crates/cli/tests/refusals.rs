//! Runs the program against a daemon's socket: its exit status is what scripts act on.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of tests may panic like they do"
)]

use std::process::{Command, Output};

use enrolment::{Listener, Received, Reply};

/// Answers requests with `reply` until the program has ended.
fn ambit(arguments: &[&str], reply: &Reply) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enrol.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut listener = Listener::bind(&socket).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambit"));
        command.args(arguments).arg("--socket").arg(&socket);
        let program = tokio::task::spawn_blocking(move || command.output().unwrap());
        loop {
            match listener.next().await {
                Received::Enrol { peer, .. } | Received::Other { peer, .. } => {
                    peer.reply(reply).await.unwrap();
                }
                Received::Closed { .. } => return program.await.unwrap(),
            }
        }
    })
}

const ENROL: [&str; 7] = [
    "enrol",
    "--namespace",
    "shop",
    "--name",
    "web",
    "--netns",
    "/proc/self/ns/net",
];

#[test]
fn a_refusal_is_told_in_the_daemons_words_and_fails() {
    let refused = Reply::Refused("take-over in progress, retry".to_owned());
    let ended = ambit(&ENROL, &refused);
    assert!(!ended.status.success());
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(
        told,
        "ambit: ztunnel refused: take-over in progress, retry\n"
    );
}

#[test]
fn an_acknowledged_enrolment_succeeds() {
    let ended = ambit(&ENROL, &Reply::Ack);
    assert!(ended.status.success());
    assert_eq!(ended.stdout, b"shop/web is enrolled\n");
}

#[test]
fn no_pods_are_a_table_without_lines() {
    let ended = ambit(&["pods"], &Reply::Ack);
    assert!(ended.status.success());
    assert_eq!(String::from_utf8(ended.stdout).unwrap().lines().count(), 1);
}
