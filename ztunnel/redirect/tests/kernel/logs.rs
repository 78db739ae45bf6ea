//! The programs' own log.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use redirect::EbpfLog;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::{World, accept};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
#[ignore = "needs root: netns"]
fn each_captured_connection_is_logged_when_asked_for() {
    let mut world = World::new();
    world.config.ebpf_log = EbpfLog::Debug;
    let mut redirect = world.load();
    let logs = redirect.take_logs().expect("logs are on");
    let enrolled = world.enrol(&mut redirect);
    let _app = world.pod.connect("10.96.0.1:80").unwrap();
    accept(&enrolled.listeners.outbound);
    let _caller = world.outside.connect("10.77.1.2:8080").unwrap();
    accept(&enrolled.listeners.inbound);

    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(lines.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cookie = enrolled.sockets.cookie();
    let expected = [
        format!("pod {cookie}: captured to 10.96.0.1"),
        format!("pod {cookie}: captured to port 8080"),
    ];
    let _during = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
    runtime.block_on(async {
        // The lines are in the buffer already; reading never ends by itself.
        tokio::time::timeout(Duration::from_millis(200), logs.run())
            .await
            .expect_err("it runs until it is dropped");
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for line in expected {
        assert!(text.contains(&line), "{line:?} is not in {text:?}");
    }
}
