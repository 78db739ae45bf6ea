//! PINGs, which find a peer that is gone without a word.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use crate::{Error, Settings};

/// Sends a PING at each interval, and ends when one stays unanswered.
pub(crate) struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    /// When the next PING is due, or when the one under way is late.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Keepalive {
    pub(crate) fn new(pings: PingPong, settings: &Settings) -> Self {
        Self {
            pings,
            interval: settings.ping_interval,
            timeout: settings.ping_timeout,
            timer: Box::pin(sleep(settings.ping_interval)),
            waiting: false,
        }
    }

    /// Ready when the peer is dead.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            if self.waiting {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.timer.as_mut().reset(Instant::now() + self.interval);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Error::Connection(error)),
                    Poll::Pending => {}
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(Error::Unresponsive(self.timeout));
            }
            if let Err(error) = self.pings.send_ping(Ping::opaque()) {
                return Poll::Ready(Error::Connection(error));
            }
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
