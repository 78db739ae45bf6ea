//! The scenario of the demo against real daemons, whole and with each promise broken.

use harness::{Mesh, MeshOptions};
use netns::{Row, run_all};

fn failures(rows: &[Row]) -> Vec<String> {
    let failed = |row: &Row| {
        let error = row.outcome.as_ref().err()?;
        Some(format!("{} ({}): {error:#}", row.number, row.title))
    };
    rows.iter().filter_map(failed).collect()
}

#[test]
#[ignore = "needs root: netns"]
fn every_promise_holds() {
    let mut mesh = Mesh::start(MeshOptions::for_test("scenario").unwrap()).unwrap();
    let rows = run_all(&mut mesh, None, |row| println!("{row:?}"));
    assert_eq!(
        failures(&rows),
        Vec::<String>::new(),
        "{}",
        mesh.diagnosis()
    );
    assert_eq!(rows.len(), 11);
}

#[test]
#[ignore = "needs root: netns"]
fn every_check_notices_that_its_promise_is_broken() {
    let mut mesh = Mesh::start(MeshOptions::for_test("sabotage").unwrap()).unwrap();
    for check in &netns::ALL {
        let row = netns::run_broken(check, &mut mesh);
        println!("{row:?}");
        let error = row.outcome.expect_err(check.title);
        assert!(
            !format!("{error:#}").contains(netns::MISHAP),
            "{}: {error:#}\n{}",
            check.number,
            mesh.diagnosis()
        );
    }
}
