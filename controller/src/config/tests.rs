//! Which command lines are refused, and how.

use super::*;

fn faults(words: &[&str]) -> Vec<String> {
    let line = std::iter::once("ambit-controller").chain(words.iter().copied());
    match Command::parse(line) {
        Ok(command) => panic!("accepted: {command:?}"),
        Err(Faults::CommandLine(error)) => vec![error.to_string()],
        Err(Faults::Values(faults)) => faults.iter().map(Fault::to_string).collect(),
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let told = faults(&[
        "--source=kube",
        "--listen=here",
        "--admin=0.0.0.0:1",
        "--trust-domain=a/b",
        "--certificate-ttl=91d",
        "--cluster-id=",
    ]);
    assert_eq!(told.len(), 6, "{told:#?}");
    assert_eq!(told[0], "--source: kube is not there yet: use dir:PATH");
}

#[test]
fn a_source_is_all_that_must_be_said() {
    let command = Command::parse(["ambit-controller", "--source=dir:/etc/mesh"]).unwrap();
    let Command::Run(config) = command else {
        panic!("{command:?}");
    };
    assert_eq!(config.source, Source::Directory("/etc/mesh".into()));
    assert_eq!(config.certificate_ttl, DAY);
    assert!(
        config
            .server_names
            .contains(&"ambit-controller.ambit-system.svc".to_owned())
    );
    assert_eq!(faults(&[]), ["--source: is needed: dir:PATH"]);
}

#[test]
fn times_have_a_unit_and_are_not_zero() {
    for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("2d", 172_800)] {
        assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
    }
    for text in ["", "s", "24", "0h", "-1h", "1.5h", "24H", "1é"] {
        assert!(duration(text).is_err(), "{text:?}");
    }
}
