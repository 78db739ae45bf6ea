//! The keeper under paused time: hours of renewals, failures and rotations in no time.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use model::TrustDomain;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{advance, sleep},
};

use super::*;
use crate::{Authority, IssueError, IssuedChain, IssuedError, testing::id};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// How the authority of a test behaves.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Signs,
    Denies,
    Silent,
    Panics,
    SignsForAnother,
    SignsAnotherKey,
}

/// An authority on the paused clock, that counts, refuses and waits as it is told.
struct Script {
    authority: Authority,
    ttl: Duration,
    mood: Mutex<Mood>,
    asked: Mutex<Vec<(SpiffeId, Instant)>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    /// A permit is taken by each attempt, before it is answered.
    gate: Semaphore,
}

#[derive(Clone)]
struct ScriptedIssuer(Arc<Script>);

impl Issuer for ScriptedIssuer {
    async fn issue(&self, csr_pem: String, id: &SpiffeId) -> Result<IssuedChain, IssueError> {
        let script = &self.0;
        script
            .asked
            .lock()
            .unwrap()
            .push((id.clone(), Instant::now()));
        let running = script.running.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_running.fetch_max(running, Ordering::SeqCst);
        script.gate.acquire().await.unwrap().forget();
        script.running.fetch_sub(1, Ordering::SeqCst);
        let mood = *script.mood.lock().unwrap();
        let sign =
            |csr: &str, id: &SpiffeId| Ok(script.authority.sign(csr, id, script.ttl).unwrap());
        match mood {
            Mood::Signs => sign(&csr_pem, id),
            Mood::Denies => Err(IssueError::Denied {
                reason: "no such pod here".to_owned(),
            }),
            Mood::Silent => std::future::pending().await,
            Mood::Panics => panic!("the issuer is broken"),
            Mood::SignsForAnother => sign(&csr_pem, &id_of_another()),
            Mood::SignsAnotherKey => {
                let other = crate::request::Request::new(id).unwrap();
                sign(&other.csr_pem, id)
            }
        }
    }
}

struct Bench {
    script: Arc<Script>,
    store: Store,
    /// Holds the keeper; dropped, it ends it.
    _keeper: JoinSet<()>,
}

impl Bench {
    fn new(ttl: Duration) -> Self {
        let clock = Clock::following_tokio();
        let script = Arc::new(Script {
            authority: Authority::in_memory(&TrustDomain::default(), clock.clone()),
            ttl,
            mood: Mutex::new(Mood::Signs),
            asked: Mutex::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let issuer = ScriptedIssuer(script.clone());
        let (store, keeper) = Store::new(issuer, Config::default(), clock);
        let mut running = JoinSet::new();
        running.spawn(keeper.run());
        Self {
            script,
            store,
            _keeper: running,
        }
    }

    fn is_now(&self, mood: Mood) {
        *self.script.mood.lock().unwrap() = mood;
    }

    /// Nobody is answered until `open`.
    fn close(&self) {
        self.script.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn open(&self, answers: usize) {
        self.script.gate.add_permits(answers);
    }

    fn times_asked(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }

    fn serial(&self) -> String {
        self.store.current(&web()).unwrap().info().serial.clone()
    }
}

fn web() -> SpiffeId {
    id("shop", "web")
}

fn id_of_another() -> SpiffeId {
    id("shop", "other")
}

/// Lets everything that is ready run. Time passes only when nothing is.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_fetched_on_demand_and_then_held() {
    let bench = Bench::new(HOUR);
    assert!(bench.store.current(&web()).is_none());
    let first = bench.store.certificate(&web()).await.unwrap();
    let again = bench.store.certificate(&web()).await.unwrap();
    assert_eq!(*first.id(), web());
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(bench.times_asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn demands_of_one_identity_share_one_attempt() {
    let bench = Bench::new(HOUR);
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let store = bench.store.clone();
        callers.spawn(async move {
            store
                .certificate(&web())
                .await
                .unwrap()
                .info()
                .serial
                .clone()
        });
    }
    let serials: HashSet<String> = callers.join_all().await.into_iter().collect();
    assert_eq!((serials.len(), bench.times_asked()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_life() {
    let bench = Bench::new(HOUR);
    bench.store.certificate(&web()).await.unwrap();
    let first = bench.serial();
    // Issued one minute back: half of 61 minutes is 29.5 minutes from now.
    advance(Duration::from_secs(29 * 60)).await;
    settle().await;
    assert_eq!(bench.serial(), first);
    advance(SECOND * 31).await;
    settle().await;
    assert_ne!(bench.serial(), first);
    assert_eq!(bench.times_asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn short_lives_renew_too_and_are_never_seen_expired() {
    let bench = Bench::new(SECOND * 4);
    bench.store.certificate(&web()).await.unwrap();
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert!(bench.store.current(&web()).unwrap().is_valid());
    }
    // X.509 counts whole seconds, so a life of four may be little more than three.
    let asked = bench.times_asked();
    assert!(
        (28..=50).contains(&asked),
        "asked {asked} times in a minute"
    );
}

#[tokio::test(start_paused = true)]
async fn a_valid_certificate_is_kept_while_its_renewal_fails() {
    let bench = Bench::new(HOUR);
    bench.store.certificate(&web()).await.unwrap();
    let first = bench.serial();
    bench.is_now(Mood::Denies);
    sleep(Duration::from_secs(50 * 60)).await;
    assert!(bench.times_asked() > 2);
    assert_eq!(bench.serial(), first);
    let status = &bench.store.snapshot()[0];
    assert!(status.certificate.is_some() && status.error.is_some());
    bench.is_now(Mood::Signs);
    sleep(SECOND * 151).await;
    assert_ne!(bench.serial(), first);
    assert!(bench.store.snapshot()[0].error.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_never_handed_out() {
    let bench = Bench::new(HOUR);
    bench.store.certificate(&web()).await.unwrap();
    bench.is_now(Mood::Denies);
    sleep(HOUR + SECOND).await;
    assert!(bench.store.current(&web()).is_none());
    let error = bench.store.certificate(&web()).await.unwrap_err();
    assert!(
        matches!(error, IdentityError::Unavailable { .. }),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn backs_off_up_to_the_limit() {
    let bench = Bench::new(HOUR);
    bench.is_now(Mood::Denies);
    bench.store.prefetch(&web());
    sleep(Duration::from_secs(900)).await;
    let asked = bench.script.asked.lock().unwrap().clone();
    let pauses: Vec<u64> = asked
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).as_secs())
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150, 150]);
}

#[tokio::test(start_paused = true)]
async fn a_demand_waits_for_a_retry_that_comes_before_its_deadline() {
    let bench = Bench::new(HOUR);
    bench.is_now(Mood::Denies);
    let store = bench.store.clone();
    let mut caller = JoinSet::new();
    caller.spawn(async move { store.certificate(&web()).await });
    settle().await;
    assert_eq!(bench.times_asked(), 1);
    bench.is_now(Mood::Signs);
    let held = caller.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((held.id(), bench.times_asked()), (&web(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_demand_is_refused_at_once_when_the_next_attempt_is_too_late() {
    let bench = Bench::new(HOUR);
    bench.is_now(Mood::Denies);
    bench.store.prefetch(&web());
    sleep(SECOND * 20).await;
    let (asked, before) = (bench.times_asked(), Instant::now());
    let error = bench.store.certificate(&web()).await.unwrap_err();
    assert_eq!(before, Instant::now());
    assert_eq!(asked, bench.times_asked());
    let IdentityError::Unavailable { source, .. } = error else {
        panic!("refused for another reason: {error:?}");
    };
    assert!(source.to_string().contains("no such pod here"));
}

#[tokio::test(start_paused = true)]
async fn a_demand_has_a_deadline_and_an_attempt_too() {
    let bench = Bench::new(HOUR);
    bench.is_now(Mood::Silent);
    let before = Instant::now();
    let error = bench.store.certificate(&web()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Deadline { .. }), "{error:?}");
    assert_eq!((Instant::now() - before).as_secs(), 5);
    sleep(SECOND * 6).await;
    let status = &bench.store.snapshot()[0];
    let error = status.error.as_deref();
    assert!(matches!(error, Some(FetchError::Deadline(_))), "{error:?}");
    bench.is_now(Mood::Signs);
    bench.store.certificate(&web()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn eight_attempts_run_at_once_and_demands_go_first() {
    let bench = Bench::new(HOUR);
    bench.close();
    for number in 0..30 {
        bench.store.prefetch(&id("shop", &format!("pod-{number}")));
    }
    settle().await;
    let store = bench.store.clone();
    let mut caller = JoinSet::new();
    caller.spawn(async move { store.certificate(&web()).await });
    settle().await;
    assert_eq!(bench.times_asked(), 8);
    bench.open(1);
    settle().await;
    assert_eq!(bench.script.asked.lock().unwrap()[8].0, web());
    bench.open(1000);
    caller.join_next().await.unwrap().unwrap().unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.times_asked(), 31);
    assert_eq!(bench.script.most_running.load(Ordering::SeqCst), 8);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_dropped_and_no_longer_renewed() {
    let bench = Bench::new(HOUR);
    bench.store.certificate(&web()).await.unwrap();
    bench.store.forget(&web());
    settle().await;
    assert!(bench.store.current(&web()).is_none());
    assert!(bench.store.snapshot().is_empty());
    sleep(HOUR * 2).await;
    assert_eq!(bench.times_asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_in_flight_is_dropped_and_what_returns_is_asked_once() {
    let bench = Bench::new(HOUR);
    bench.close();
    bench.store.prefetch(&web());
    settle().await;
    bench.store.forget(&web());
    settle().await;
    bench.store.prefetch(&web());
    settle().await;
    bench.open(1000);
    settle().await;
    assert!(bench.store.current(&web()).is_some());
    assert_eq!(bench.times_asked(), 1);

    let cart = id("shop", "cart");
    bench.close();
    bench.store.prefetch(&cart);
    settle().await;
    bench.store.forget(&cart);
    settle().await;
    bench.open(1000);
    settle().await;
    assert!(bench.store.current(&cart).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_another_identity_or_key_is_not_taken() {
    for mood in [Mood::SignsForAnother, Mood::SignsAnotherKey] {
        let bench = Bench::new(HOUR);
        bench.is_now(mood);
        bench.store.prefetch(&web());
        settle().await;
        assert!(bench.store.current(&web()).is_none());
        let status = &bench.store.snapshot()[0];
        let Some(FetchError::Issued(error)) = status.error.as_deref() else {
            panic!("failed for another reason: {:?}", status.error);
        };
        match error {
            IssuedError::WrongIdentity { wanted, got } => {
                assert_eq!((wanted, got), (&web(), &id("shop", "other")));
            }
            IssuedError::WrongKey(_) => assert!(mood == Mood::SignsAnotherKey),
            other => panic!("refused for another reason: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_a_failed_attempt() {
    let bench = Bench::new(HOUR);
    bench.is_now(Mood::Panics);
    bench.store.prefetch(&web());
    settle().await;
    let error = bench.store.snapshot()[0].error.clone();
    assert!(
        matches!(error.as_deref(), Some(FetchError::Lost)),
        "{error:?}"
    );
    bench.is_now(Mood::Signs);
    bench.store.certificate(&web()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_reaches_every_certificate_with_the_first_answer_that_has_it() {
    let bench = Bench::new(HOUR);
    let old = bench.store.certificate(&web()).await.unwrap();
    bench.script.authority.prepare_rotation().unwrap();
    bench.store.certificate(&id("shop", "cart")).await.unwrap();
    let rebuilt = bench.store.current(&web()).unwrap();
    assert_eq!(rebuilt.info().serial, old.info().serial);
    assert_eq!((old.roots_pem().len(), rebuilt.roots_pem().len()), (1, 2));
    assert_eq!(rebuilt.renew_at(), old.renew_at());
    assert!(!Arc::ptr_eq(old.server_config(), rebuilt.server_config()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_a_retired_root_is_renewed_at_once() {
    let bench = Bench::new(HOUR);
    let authority = &bench.script.authority;
    bench.store.certificate(&web()).await.unwrap();
    let first = bench.serial();
    let next = authority.prepare_rotation().unwrap();
    authority.activate(next).unwrap();
    authority.retire(1).unwrap();
    bench.store.certificate(&id("shop", "cart")).await.unwrap();
    settle().await;
    assert_ne!(bench.serial(), first);
    assert_eq!(bench.times_asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_keeper_ends_with_the_last_handle() {
    let Bench {
        store, mut _keeper, ..
    } = Bench::new(HOUR);
    store.certificate(&web()).await.unwrap();
    drop(store);
    _keeper.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_keeper_a_demand_fails_at_once() {
    let Bench {
        store, mut _keeper, ..
    } = Bench::new(HOUR);
    _keeper.shutdown().await;
    let error = store.certificate(&web()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Stopped), "{error:?}");
}
