//! The load's own clients, against a whole hub: they come, stay, come back, and nothing of them is left.

use std::cell::RefCell;
use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::house::{House, settle};
use super::valve::Valve;
use crate::load::comeback::{Crowd, Told, follow, speak};
use crate::load::error::LoadError;
use crate::load::guest::Guest;
use crate::load::visit::{Kept, Visitor, alone};

type Shared = Rc<RefCell<House>>;

fn visitor(number: u32) -> Visitor {
    Visitor { authority: "hub".to_owned(), user: format!("bench-{number}"), client_name: "x".to_owned() }
}

fn dial(house: &Shared) -> Result<Valve, LoadError> {
    Ok(house.borrow_mut().dial(None, 256 * 1024).0)
}

/// Sessions, streams and connections of the hub.
fn holds(house: &Shared) -> (usize, usize, usize) {
    let house = house.borrow();
    let hub = house.core.hub();
    (hub.sessions().count(), hub.streams().count(), hub.connections().count())
}

#[tokio::test(start_paused = true)]
async fn a_visit_leaves_nothing_not_even_its_connection() {
    let house = Rc::new(RefCell::new(House::new()));
    for _ in 0..3 {
        alone(ready(dial(&house)), &visitor(0)).await.unwrap();
        settle().await;
        assert_eq!(holds(&house), (0, 0, 0));
    }
    assert_eq!(house.borrow().core.facts().logins, 3);
}

#[tokio::test(start_paused = true)]
async fn another_sessions_stream_keeps_the_connection_of_a_visit() {
    let house = Rc::new(RefCell::new(House::new()));
    let mut kept = Kept::open(ready(dial(&house)), &visitor(0)).await.unwrap();
    for _ in 0..3 {
        kept.visit(&visitor(0)).await.unwrap();
        settle().await;
        assert_eq!(holds(&house), (1, 1, 1));
    }
    kept.leave().await.unwrap();
    settle().await;
    assert_eq!(holds(&house), (0, 0, 0));
    assert_eq!(house.borrow().core.facts().logins, 4);
}

#[tokio::test(start_paused = true)]
async fn a_guest_outlives_many_leases_and_then_leaves_nothing() {
    let house = Rc::new(RefCell::new(House::new()));
    let mut guest = Guest::come(ready(dial(&house)), &visitor(0)).await.unwrap();
    guest.stay(sleep(Duration::from_secs(1000))).await.unwrap();
    assert_eq!(holds(&house), (1, 1, 1));
    guest.leave().await.unwrap();
    settle().await;
    assert_eq!(holds(&house), (0, 0, 0));
}

/// A crowd of 20 is cut, comes back a second later, and leaves; what it was told.
async fn storm(house: &Shared, logs_in: bool) -> Told {
    let crowd = Rc::new(Crowd::new(logs_in));
    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let house = Rc::clone(house);
        let dial = move || ready(dial(&house));
        tasks.spawn_local(follow(dial, visitor(number), Rc::clone(&crowd)));
    }
    let period = Duration::from_millis(10);
    tasks.spawn_local(speak(ready(dial(house)), visitor(20), period, Rc::clone(&crowd)));
    crowd.until(|crowd| crowd.count().following == 20).await.unwrap();
    crowd.speak.cancel();
    sleep(Duration::from_secs(1)).await;
    crowd.cut.cancel();
    crowd.until(|crowd| crowd.count().cut == 20).await.unwrap();
    let published = crowd.published.get();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(holds(house), (21, 1, 1), "the sessions outlive their connections");
    assert!(crowd.published.get() > published, "the publisher goes on");
    crowd.begin();
    crowd.until(|crowd| crowd.count().caught_up == 20).await.unwrap();
    crowd.hush.cancel();
    crowd.until(|crowd| crowd.hushed.is_cancelled() && crowd.is_complete()).await.unwrap();
    crowd.leave.cancel();
    tasks.join_all().await;
    settle().await;
    assert_eq!(holds(house), (0, 0, 0));
    crowd.told.take()
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_was_cut_comes_back_and_misses_nothing() {
    for logs_in in [false, true] {
        let house = Rc::new(RefCell::new(House::new()));
        let told = LocalSet::new().run_until(storm(&house, logs_in)).await;
        assert_eq!((told.missed, told.lost, told.attempts), (0, 0, 20));
        assert_eq!((told.refused.len(), told.unexplained.len(), told.left), (0, 0, 0));
        assert_eq!((told.live.count(), told.caught_up.count()), (20, 20));
        assert_eq!(house.borrow().core.facts().logins, if logs_in { 41 } else { 21 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_is_stopped_logs_out_whether_it_is_there_or_cut() {
    for is_cut in [false, true] {
        let house = Rc::new(RefCell::new(House::new()));
        let stopped = async {
            let crowd = Rc::new(Crowd::new(false));
            let mut tasks = JoinSet::new();
            for number in 0..20 {
                let house = Rc::clone(&house);
                let dial = move || ready(dial(&house));
                tasks.spawn_local(follow(dial, visitor(number), Rc::clone(&crowd)));
            }
            crowd.until(|crowd| crowd.count().following == 20).await.unwrap();
            if is_cut {
                crowd.cut.cancel();
                crowd.until(|crowd| crowd.count().cut == 20).await.unwrap();
            }
            crowd.leave.cancel();
            tasks.join_all().await;
            crowd.told.take().left
        };
        assert_eq!(LocalSet::new().run_until(stopped).await, 0);
        settle().await;
        assert_eq!(holds(&house), (0, 0, 0));
        let dialled = if is_cut { 40 } else { 20 };
        assert_eq!(house.borrow().core.facts().logins, 20);
        assert_eq!(house.borrow().dialled(), dialled, "who is there needs no other connection");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_hub_no_longer_has_is_told_by_a_gap_and_not_lost() {
    // A tail of some ten events.
    let house = Rc::new(RefCell::new(House::with(|limits, _| {
        (limits.message_bytes_max, limits.lag_bytes_max, limits.tail_bytes_max) = (256, 2048, 2048);
    })));
    let told = LocalSet::new().run_until(storm(&house, false)).await;
    assert_eq!(told.lost, 0);
    assert!(told.missed > 20 * 50, "{} of about 2000", told.missed);
}
