//! The checks in their order.

mod c01_encrypted;
mod c02_transparent;
mod c03_balanced;
mod c04_authorized;
mod c05_peer_authentication;
mod c06_enrolment;
mod c07_killed;
mod c08_taken_over;
mod c09_controller_away;
mod c10_renewed;
mod c11_recorded;

use anyhow::Result;
use harness::Mesh;

/// A promise and how it is checked.
pub struct Check {
    pub number: u8,
    pub title: &'static str,
    /// Tells what was seen.
    pub run: fn(&mut Mesh) -> Result<String>,
    /// Puts the mesh back as it was.
    pub restore: fn(&mut Mesh) -> Result<()>,
}

fn nothing_to_restore(_: &mut Mesh) -> Result<()> {
    Ok(())
}

pub const ALL: [Check; 11] = [
    Check {
        number: 1,
        title: "everything between pods is encrypted",
        run: c01_encrypted::run,
        restore: nothing_to_restore,
    },
    Check {
        number: 2,
        title: "applications see no difference",
        run: c02_transparent::run,
        restore: nothing_to_restore,
    },
    Check {
        number: 3,
        title: "both replicas are used",
        run: c03_balanced::run,
        restore: nothing_to_restore,
    },
    Check {
        number: 4,
        title: "policy admits, refuses and changes at once",
        run: c04_authorized::run,
        restore: c04_authorized::restore,
    },
    Check {
        number: 5,
        title: "PERMISSIVE, STRICT and port-level mTLS",
        run: c05_peer_authentication::run,
        restore: c05_peer_authentication::restore,
    },
    Check {
        number: 6,
        title: "enrolment breaks no connection",
        run: c06_enrolment::run,
        restore: c06_enrolment::restore,
    },
    Check {
        number: 7,
        title: "a killed daemon leaks nothing",
        run: c07_killed::run,
        restore: c07_killed::restore,
    },
    Check {
        number: 8,
        title: "a second daemon takes over under load",
        run: c08_taken_over::run,
        restore: c08_taken_over::restore,
    },
    Check {
        number: 9,
        title: "the controller may be away",
        run: c09_controller_away::run,
        restore: c09_controller_away::restore,
    },
    Check {
        number: 10,
        title: "certificates renew under traffic",
        run: c10_renewed::run,
        restore: nothing_to_restore,
    },
    Check {
        number: 11,
        title: "metrics and logs of both nodes agree",
        run: c11_recorded::run,
        restore: c11_recorded::restore,
    },
];
