use super::*;

fn t(name: &str) -> TenantId {
    TenantId::new(name).expect("tenant")
}

fn change(id: i64, xid: u64, tenants: &[&str]) -> Change {
    Change {
        id,
        more: Vec::new(),
        xid,
        tenants: tenants.iter().map(|name| t(name)).collect(),
    }
}

fn looked(seen: &str, last_id: i64, changes: Vec<Change>) -> Looked {
    Looked {
        seen: Snapshot::parse(seen).expect("a snapshot"),
        last_id,
        has_room: true,
        missed: None,
        changes,
        is_backlog: false,
        everyone: None,
        beat: false,
    }
}

fn at(micros: u64) -> Option<Reading> {
    Some(Reading { boot: 1, micros })
}

/// Two stores, and a look at each moment that is named.
struct Books(Capture, u64);

impl Books {
    fn new() -> Self {
        Self(Capture::new(2), 0)
    }

    fn look(&mut self, clock: u64, found: Looked) -> Vec<(TenantId, usize)> {
        let request = self
            .0
            .next_look(0, &[at(clock), at(clock)])
            .expect("a look");
        self.1 += 10;
        self.0
            .looked(0, request.id, Tick(self.1), &found, &[true, true])
    }

    fn ack(&mut self, xid: u64) -> Option<AckRequest> {
        let request = self.0.next_ack(1_000, vec![], vec![], None, true);
        self.0.acked(1_000, Some(xid));
        request
    }
}

const A: StoreIx = StoreIx(0);
const B: StoreIx = StoreIx(1);

#[test]
fn a_row_is_acknowledged_when_every_store_has_a_build_that_began_after_it_was_seen() {
    let mut books = Books::new();
    let found = books.look(
        1,
        looked("5:5:", 2, vec![change(1, 4, &["a"]), change(2, 4, &["b"])]),
    );
    assert_eq!(found, [(t("a"), 2), (t("b"), 2)]);
    books.0.delivered(0, A, &t("a"), Tick(11));
    books.0.delivered(0, B, &t("a"), Tick(9));
    assert_eq!(books.ack(6), None, "store b has an older build");
    books.0.delivered(0, B, &t("a"), Tick(12));
    let ack = books.ack(7).expect("an acknowledgement");
    assert_eq!((ack.ids, ack.done_to), (vec![1], 1));
    books.0.strike_store(0, A);
    books.0.delivered(0, B, &t("b"), Tick(12));
    assert_eq!(books.ack(8).map(|a| (a.ids, a.done_to)), Some((vec![2], 2)));
    assert!(books.0.is_idle());
}

#[test]
fn rows_for_which_another_one_stands_are_acknowledged_with_it() {
    let mut books = Books::new();
    let first = Change {
        more: vec![2, 4],
        ..change(1, 4, &["a"])
    };
    books.look(1, looked("5:5:", 4, vec![first, change(3, 4, &[])]));
    assert_eq!(books.ack(6).map(|a| (a.ids, a.done_to)), Some((vec![3], 0)));
    books.0.strike_store(0, A);
    books.0.strike_store(0, B);
    let ack = books.ack(7).expect("an acknowledgement");
    assert_eq!((ack.ids, ack.done_to), (vec![1, 2, 4], 4));
}

#[test]
fn who_waits_for_the_oldest_change_holds_the_others_up() {
    let mut books = Books::new();
    assert_eq!(books.0.laggards(), []);
    books.look(1, looked("5:5:", 1, vec![change(1, 4, &["a"])]));
    books.look(2, looked("6:6:", 2, vec![change(2, 5, &["b"])]));
    assert_eq!(books.0.laggards(), [A, B]);
    books.0.delivered(0, B, &t("a"), Tick(11));
    assert_eq!(books.0.laggards(), [A]);
    books.0.strike_store(0, A);
    assert_eq!(books.0.laggards(), [B]);
}

#[test]
fn a_store_is_as_fresh_as_the_last_look_of_which_it_has_everything() {
    let mut books = Books::new();
    books.look(100, looked("5:5:", 1, vec![change(1, 4, &["a"])]));
    books.look(200, looked("6:6:", 1, vec![]));
    assert_eq!(books.0.fresh(A), None);
    books.0.delivered(0, A, &t("a"), Tick(11));
    assert_eq!((books.0.fresh(A), books.0.fresh(B)), (at(200), None));
    let under_way = books.0.next_look(0, &[at(300), at(300)]);
    assert!(
        under_way.is_some() && books.0.fresh(A) == at(200),
        "not complete"
    );
    books.0.strike_before(0, B, Tick(11));
    assert_eq!(books.0.fresh(B), at(200));
}

#[test]
fn a_tenth_of_a_core_may_be_spun() {
    let (mut books, mut spun) = (Capture::new(0), 0);
    for now in 1_000..11_000 {
        let spin = books.spin(now).min(700);
        books.spun(spin);
        spun += spin;
    }
    assert!((1_000_000..1_030_000).contains(&spun), "{spun} us in 10 s");
}

#[test]
fn a_look_that_failed_says_nothing_about_the_age() {
    let mut books = Books::new();
    assert!(books.0.next_look(0, &[at(100), at(100)]).is_some());
    books.0.look_failed(0);
    books.0.retry_at = 0;
    books.look(200, looked("5:5:", 1, vec![change(1, 4, &["a"])]));
    assert_eq!(books.0.fresh(A), None, "the change may be from before 100");
    books.0.delivered(0, A, &t("a"), Tick(11));
    assert_eq!(books.0.fresh(A), at(200));
}

#[test]
fn the_lower_bound_waits_for_every_transaction_that_may_have_drawn_a_lower_id() {
    let mut books = Books::new();
    books.look(1, looked("4:7:4", 9, vec![change(9, 5, &[])]));
    books.ack(8);
    let next = |books: &mut Books, seen: &str| {
        books.look(1, looked(seen, 9, vec![]));
        let request = books.0.next_look(0, &[None, None]).expect("a look");
        books.0.look_failed(0);
        books.0.retry_at = 0;
        request.from_id
    };
    assert_eq!(
        next(&mut books, "4:9:4"),
        0,
        "4 may still commit a row with a lower id"
    );
    assert_eq!(next(&mut books, "8:9:8"), 0);
    assert_eq!(next(&mut books, "9:9:"), 10);
}

#[test]
fn a_transaction_that_changes_one_tenant_often_is_small() {
    let mut books = Books::new();
    let mut changes: Vec<Change> = (1..100).map(|id| change(id, 4, &["a"])).collect();
    changes.push(change(100, 5, &["b", "c"]));
    changes.push(change(101, 5, &["b"]));
    let found = books.look(1, looked("6:6:", 101, changes));
    assert_eq!(found, [(t("a"), 1), (t("b"), 2), (t("c"), 2)]);
}

#[test]
fn a_transaction_is_visible_where_nothing_up_to_it_is_under_way() {
    let mut books = Books::new();
    assert_eq!(books.0.has(4, A), None);
    let both = vec![change(1, 4, &["a", "b"]), change(3, 3, &["a"])];
    books.look(1, looked("5:5:", 3, both));
    books.look(2, looked("6:6:", 4, vec![change(4, 5, &["b"])]));
    books.0.delivered(0, A, &t("b"), Tick(21));
    let has = |books: &Books, ix| [3, 4, 5, 6].map(|xid| books.0.has(xid, ix));
    let (no, yes) = (Some(false), Some(true));
    assert_eq!(
        has(&books, A),
        [no, no, no, None],
        "a may have had what 5 changed"
    );
    books.0.delivered(0, A, &t("a"), Tick(11));
    assert_eq!(has(&books, A), [yes, yes, yes, None]);
    assert_eq!(has(&books, B), [no, no, no, None]);
    books.0.delivered(0, B, &t("a"), Tick(11));
    books.0.delivered(0, B, &t("b"), Tick(11));
    assert_eq!(has(&books, B), [yes, yes, no, None]);
    books.0.strike_store(0, B);
    books.look(3, looked("7:7:", 4, vec![]));
    assert_eq!((has(&books, B), books.0.found.len()), ([yes; 4], 0));
}

#[test]
fn an_acknowledgement_that_failed_is_made_again() {
    let mut books = Books::new();
    books.look(1, looked("5:5:", 1, vec![change(1, 4, &[])]));
    assert!(
        books
            .0
            .next_ack(1_000, vec![], vec![], None, false)
            .is_some()
    );
    books.0.acked(1_000, None);
    let again = books.0.next_ack(9_000, vec![], vec![], None, false);
    assert_eq!(again.map(|a| a.ids), Some(vec![1]));
}
