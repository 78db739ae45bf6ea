//! The data-plane threads: each its own runtime, tunnel pool and buffers, sharing no lock.
//!
//! A connection is dealt to the least loaded worker when it is accepted and stays there, so that
//! its streams, TLS state and application socket live on one thread.

use std::{
    cell::RefCell,
    io,
    num::NonZeroUsize,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{JoinSet, LocalSet},
};
use tracing::error;

use crate::{
    inbound,
    inbound::connections::Connections,
    node::{Node, Stage},
    outbound,
    outbound::tunnel::Tunnels,
    pod::{
        Ends, OverBudget, Pod,
        accept::{self, Accepted, Role},
    },
    record,
    relay::Scratch,
};

enum Job {
    Listen(Arc<Pod>, redirect::PodListeners),
    Serve(Accepted),
}

#[derive(Clone)]
struct Member {
    jobs: mpsc::UnboundedSender<Job>,
    load: Arc<AtomicUsize>,
}

/// Hands work to the workers. The queues hold no more than the pods' budgets admit.
#[derive(Clone)]
pub(crate) struct Crew {
    members: Arc<[Member]>,
    node: Arc<Node>,
}

impl Crew {
    /// Gives a pod's listeners to the worker with the fewest connections.
    pub(crate) fn listen(&self, pod: &Arc<Pod>, listeners: redirect::PodListeners) {
        self.send(self.least_loaded(), Job::Listen(pod.clone(), listeners));
    }

    /// Gives a connection to the worker with the fewest.
    pub(crate) fn deal(&self, accepted: Accepted) {
        let member = self.least_loaded();
        member.load.fetch_add(1, Ordering::Relaxed);
        self.send(member, Job::Serve(accepted));
    }

    /// Records a connection that its pod's budget did not admit.
    pub(crate) fn refused(&self, role: Role, ends: Ends, over: &OverBudget) {
        record::over_budget(&self.node, role, ends, over);
    }

    fn least_loaded(&self) -> &Member {
        self.members
            .iter()
            .min_by_key(|member| member.load.load(Ordering::Relaxed))
            .expect("there is at least one worker")
    }

    fn send(&self, member: &Member, job: Job) {
        // A worker that has ended drops its sockets; the daemon is then ending too.
        member.jobs.send(job).ok();
    }
}

/// The running threads.
pub(crate) struct Workers {
    pub(crate) crew: Crew,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    pub(crate) fn start(count: NonZeroUsize, node: &Arc<Node>) -> io::Result<Self> {
        let mut members = Vec::new();
        let mut queues = Vec::new();
        for _ in 0..count.get() {
            let (jobs, queue) = mpsc::unbounded_channel();
            let load = Arc::<AtomicUsize>::default();
            members.push(Member {
                jobs,
                load: load.clone(),
            });
            queues.push((queue, load));
        }
        let crew = Crew {
            members: members.into(),
            node: node.clone(),
        };
        let threads = queues
            .into_iter()
            .enumerate()
            .map(|(number, (queue, load))| {
                let crew = crew.clone();
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || Worker::thread(number, crew, queue, load))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { crew, threads })
    }

    /// Waits for all threads; they end with the drain.
    pub(crate) fn join(self) {
        drop(self.crew);
        for thread in self.threads {
            if thread.join().is_err() {
                error!("a worker thread panicked");
            }
        }
    }
}

/// One thread's own things.
pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) tunnels: Tunnels,
    pub(crate) connections: Connections,
    pub(crate) scratch: Rc<Scratch>,
    number: usize,
    load: Arc<AtomicUsize>,
    tasks: RefCell<JoinSet<()>>,
}

impl Worker {
    fn thread(
        number: usize,
        crew: Crew,
        queue: mpsc::UnboundedReceiver<Job>,
        load: Arc<AtomicUsize>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs an epoll descriptor and nothing else");
        let node = crew.node.clone();
        LocalSet::new().block_on(&runtime, async move {
            let worker = Rc::new(Self {
                node,
                tunnels: Tunnels::new(),
                connections: Connections::default(),
                scratch: Scratch::new(),
                number,
                load,
                tasks: RefCell::default(),
            });
            worker.run(crew, queue).await;
        });
    }

    async fn run(self: &Rc<Self>, crew: Crew, mut queue: mpsc::UnboundedReceiver<Job>) {
        let (mut stage, draining) = (self.node.stage(), self.node.stage());
        let mut changes = self.node.changes();
        let mut sweep = tokio::time::interval(Tunnels::SWEEP);
        loop {
            tokio::select! {
                biased;
                job = queue.recv() => match job {
                    Some(job) => self.take(job, &crew),
                    None => break,
                },
                Some(changed) = changes.next() => {
                    if changed.policies() {
                        self.connections.judge_again(&self.node);
                    }
                }
                _ = sweep.tick() => {
                    self.tunnels.sweep();
                    self.node.telemetry.metrics().pool(self.number, self.tunnels.gauges());
                }
                () = reached(&mut stage, Stage::Cut) => break,
                () = self.drained(draining.clone()) => break,
            }
        }
        self.tasks.borrow_mut().abort_all();
    }

    /// Resolves when draining has begun and the last connection has ended.
    async fn drained(&self, mut stage: watch::Receiver<Stage>) {
        reached(&mut stage, Stage::Draining).await;
        std::future::poll_fn(|cx| {
            loop {
                self.tunnels.release();
                match self.tasks.borrow_mut().poll_join_next(cx) {
                    std::task::Poll::Ready(None) => return std::task::Poll::Ready(()),
                    std::task::Poll::Ready(Some(ended)) => report(ended),
                    std::task::Poll::Pending => return std::task::Poll::Pending,
                }
            }
        })
        .await;
    }

    fn take(self: &Rc<Self>, job: Job, crew: &Crew) {
        match job {
            Job::Listen(pod, listeners) => {
                let redirect::PodListeners {
                    outbound,
                    inbound,
                    hbone,
                } = listeners;
                let roles = [
                    (Role::Outbound, outbound),
                    (Role::Plaintext, inbound),
                    (Role::Hbone, hbone),
                ];
                for (role, listener) in roles {
                    self.spawn(accept::run(pod.clone(), role, listener, crew.clone()));
                }
            }
            Job::Serve(accepted) => self.serve(accepted),
        }
    }

    fn serve(self: &Rc<Self>, accepted: Accepted) {
        let load = Load(self.load.clone());
        let Accepted {
            pod,
            role,
            stream,
            peer,
            ticket,
        } = accepted;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                error!(%error, "cannot watch an accepted connection");
                return;
            }
        };
        let (worker, gone) = (self.clone(), pod.gone());
        // A task each, so that none is as large as the largest.
        match role {
            Role::Outbound => {
                self.spawn(until(
                    gone,
                    load,
                    outbound::serve(worker, pod, stream, peer, ticket),
                ));
            }
            Role::Plaintext => {
                let served = inbound::plaintext::serve(worker, pod, stream, peer, ticket);
                self.spawn(until(gone, load, served));
            }
            Role::Hbone => {
                let served = inbound::hbone::serve(worker, pod, stream, peer, ticket);
                self.spawn(until(gone, load, served));
            }
        }
    }

    /// Runs a task that this worker owns: it ends at the latest when the worker does.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
        tasks.spawn_local(task);
    }
}

/// Resolves when the daemon is at `wanted` or past it.
pub(crate) async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    // The sender lives as long as the node, which the workers hold.
    stage.wait_for(|stage| *stage >= wanted).await.ok();
}

/// Serves until the end, or until the pod is gone.
async fn until(gone: impl Future<Output = ()>, load: Load, served: impl Future<Output = ()>) {
    let _load = load;
    tokio::select! {
        () = served => {}
        () = gone => {}
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection's task panicked; others go on");
    }
}

struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of five arguments returns.
    fn size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_futures_of_a_connection_are_small() {
        let most = |what: &str, size: usize, most: usize| {
            assert!(size <= most, "{what} takes {size} bytes, more than {most}");
        };
        most("outbound", size(outbound::serve), 800);
        most("plaintext", size(inbound::plaintext::serve), 2400);
        most("a tunnel", size(inbound::hbone::serve), 6000);
    }
}
