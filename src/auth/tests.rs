//! The authenticator as a whole: what is refused, what is told, and what it costs in runs of Argon2.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::store::{ScopeId, TokenId};

use super::*;

const NOW_MS: i64 = 1_700_000_000_000;

/// Longer than any test.
const LONG: Duration = Duration::from_mins(10);

/// How many other secrets with the pre-tag of his own a holder has found.
const SEARCHED_OUT: usize = 32;

fn authenticator() -> Authenticator {
    Authenticator::with_cost(Cost::CHEAP).expect("set up")
}

fn present(text: &str) -> PresentedToken {
    Authenticator::present(Some(&format!("Bearer {text}"))).expect("well-formed")
}

fn record(new: &NewToken<'_>) -> TokenRecord {
    TokenRecord {
        id: TokenId(5),
        public_id: new.public_id.to_owned(),
        workspace_id: new.workspace,
        workspace: "default".to_owned(),
        trusted_scope: ScopeId(1),
        access: new.access,
        isolated_scope: new.isolated_scope.cloned(),
        name: new.name.map(str::to_owned),
        secret_phc: new.secret_phc.to_owned(),
        secret_tag: new.secret_tag,
        created_at_ms: NOW_MS,
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
        last_used_at_ms: None,
        replaced_by: None,
        first_artifact_id: None,
    }
}

/// What is wished for in most tests.
fn wish(access: Access, name: &str, expires_at_ms: Option<i64>) -> Wish {
    Wish {
        workspace: WorkspaceId(1),
        access,
        isolated_scope: None,
        name: Some(name.to_owned()),
        expires_at_ms,
    }
}

/// A token as its holder presents it, and as the store has it.
fn minted(auth: &Authenticator) -> (PresentedToken, TokenRecord) {
    let (text, minted) = auth.mint(wish(Access::Write, "ci", None)).expect("minted");
    (present(text.expose()), record(&minted.to_store()))
}

/// Another secret for the same id, with good check digits.
fn guess(holder: &PresentedToken) -> PresentedToken {
    let (_, secret, _) = token::draw().expect("random bytes");
    present(NewTokenText::spell(holder.public_id(), &secret).expose())
}

/// A wrong secret that passes the pre-tag, as one in 2^32 does.
fn lucky_guess(holder: &PresentedToken, record: &mut TokenRecord) -> PresentedToken {
    let guess = guess(holder);
    record.secret_tag = hash::tag(guess.secret());
    guess
}

#[test]
fn a_minted_token_is_granted_what_it_was_minted_for() {
    let auth = authenticator();
    let (text, minted) = auth
        .mint(wish(Access::Read, "laptop", Some(NOW_MS + 1)))
        .expect("minted");
    let (presented, record) = (present(text.expose()), record(&minted.to_store()));
    assert_eq!(presented.public_id(), minted.public_id());
    auth.verify(&presented, &record, NOW_MS).expect("right");
    let grant = auth.recall(&presented, &record, Place::default(), NOW_MS);
    let grant = grant.expect("granted").expect("known by now");
    assert_eq!(grant.token(), record.id);
    assert_eq!(grant.public_id(), minted.public_id());
    assert_eq!(grant.access(), Access::Read);
    assert_eq!(grant.name(), Some("laptop"));
    assert_eq!(grant.workspace(), "default");
}

#[test]
fn what_is_stored_of_a_token_does_not_contain_its_secret() {
    let (text, minted) = authenticator()
        .mint(wish(Access::Write, "ci", None))
        .expect("minted");
    let secret = &text.expose()[18..61];
    assert!(!format!("{minted:?} {:?}", minted.to_store()).contains(secret));
}

#[test]
fn a_token_is_verified_once_and_recalled_from_then_on() {
    let auth = authenticator();
    let (presented, record) = minted(&auth);
    let runs = auth.argon2_runs();
    assert!(
        auth.recall(&presented, &record, Place::default(), NOW_MS)
            .expect("not refused")
            .is_none()
    );
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    for _ in 0..100 {
        assert!(
            auth.recall(&presented, &record, Place::default(), NOW_MS)
                .expect("not refused")
                .is_some()
        );
        auth.verify(&presented, &record, NOW_MS).expect("granted");
    }
    assert_eq!(auth.argon2_runs() - runs, 1);
}

#[test]
fn guessing_costs_no_run_of_argon2() {
    let auth = authenticator();
    let (holder, record) = minted(&auth);
    let runs = auth.argon2_runs();
    for _ in 0..10_000 {
        let guess = guess(&holder);
        assert_eq!(
            auth.recall(&guess, &record, Place::default(), NOW_MS).err(),
            Some(Refusal::WrongSecret)
        );
        assert_eq!(
            auth.verify(&guess, &record, NOW_MS).err(),
            Some(Refusal::WrongSecret)
        );
    }
    assert_eq!(auth.argon2_runs(), runs);
}

#[test]
fn a_lucky_guess_is_refused_by_argon2_once_and_from_then_on_without() {
    let auth = authenticator();
    let (holder, mut record) = minted(&auth);
    let guess = lucky_guess(&holder, &mut record);
    let runs = auth.argon2_runs();
    assert!(
        auth.recall(&guess, &record, Place::default(), NOW_MS)
            .expect("not refused yet")
            .is_none()
    );
    for _ in 0..10 {
        assert_eq!(
            auth.verify(&guess, &record, NOW_MS).err(),
            Some(Refusal::WrongSecret)
        );
        assert_eq!(
            auth.recall(&guess, &record, Place::default(), NOW_MS).err(),
            Some(Refusal::WrongSecret)
        );
    }
    assert_eq!(auth.argon2_runs() - runs, 1);
}

/// Wrong secrets for one id that pass its pre-tag. Here no time is spent to find them: each comes with a
/// record whose tag is made to fit, and that plays no part from then on.
fn searched_out(
    holder: &PresentedToken,
    record: &TokenRecord,
) -> Vec<(PresentedToken, TokenRecord)> {
    let found = (0..SEARCHED_OUT).map(|_| {
        let mut record = record.clone();
        (lucky_guess(holder, &mut record), record)
    });
    found.collect()
}

/// Waits until `done`; what a test waits for that other threads will do.
fn until(done: impl Fn() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

/// The only permit is taken while all come, so that each stands where he will wait: nobody moves then, and
/// what is counted does not depend on who was faster.
#[test]
fn the_holder_of_a_secret_holds_up_another_token_by_one_run_however_many_secrets_he_finds() {
    let auth = Authenticator {
        hasher: Hasher::with_one_permit(),
        memo: Memo::new().expect("random bytes"),
    };
    let ((holder, hostile), (trusted, record)) = (minted(&auth), minted(&auth));
    let found = searched_out(&holder, &hostile);
    let (runs, permits) = (auth.argon2_runs(), auth.hasher.permits());
    let in_lane = || auth.hasher.turns().waiting(*holder.public_id());
    let verify = |presented, record| auth.verify(presented, record, NOW_MS);
    thread::scope(|scope| {
        // In here, so that a failure lets them all go.
        let permit = permits.take(Duration::ZERO).expect("free");
        let guesses: Vec<_> = found
            .iter()
            .map(|(guess, record)| scope.spawn(|| verify(guess, record)))
            .collect();
        until(|| in_lane() + permits.waiting() == SEARCHED_OUT);
        assert_eq!(permits.waiting(), 1, "one of them waits for a permit");
        let trusted = scope.spawn(|| verify(&trusted, &record));
        until(|| permits.waiting() == 2);
        // Behind the two, and before whoever is next in the lane.
        let observer = scope.spawn(|| {
            let _permit = permits.take(LONG).expect("a permit in time");
            auth.argon2_runs() - runs
        });
        until(|| permits.waiting() == 3);
        drop(permit);
        assert_eq!(
            observer.join().expect("no panic"),
            2,
            "one of them, and ours"
        );
        assert_eq!(trusted.join().expect("no panic"), Ok(()));
        for guess in guesses {
            assert_eq!(guess.join().expect("no panic"), Err(Refusal::WrongSecret));
        }
    });
    assert_eq!(auth.argon2_runs() - runs, SEARCHED_OUT as u64 + 1);
    assert_eq!(auth.hasher.turns().len(), 0);
}

/// What 200 threads come to that recall and verify one token at once, and how many runs it cost.
fn two_hundred_at_once(
    auth: &Authenticator,
    presented: &PresentedToken,
    record: &TokenRecord,
) -> (u64, Vec<Result<TokenId, Refusal>>) {
    let (runs, barrier) = (auth.argon2_runs(), Barrier::new(200));
    let authenticate = || {
        barrier.wait();
        if auth
            .recall(presented, record, Place::default(), NOW_MS)?
            .is_none()
        {
            auth.verify(presented, record, NOW_MS)?;
        }
        Ok(record.id)
    };
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = (0..200).map(|_| scope.spawn(authenticate)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    (auth.argon2_runs() - runs, outcomes)
}

#[test]
fn two_hundred_first_requests_with_one_token_cost_one_run() {
    let auth = authenticator();
    let (presented, record) = minted(&auth);
    let (runs, outcomes) = two_hundred_at_once(&auth, &presented, &record);
    assert_eq!(runs, 1);
    assert_eq!(outcomes, vec![Ok(record.id); 200]);
}

#[test]
fn two_hundred_first_requests_with_one_wrong_secret_cost_one_run() {
    let auth = authenticator();
    let (holder, mut record) = minted(&auth);
    let guess = lucky_guess(&holder, &mut record);
    let (runs, outcomes) = two_hundred_at_once(&auth, &guess, &record);
    assert_eq!(runs, 1);
    assert_eq!(outcomes, vec![Err(Refusal::WrongSecret); 200]);
}

#[test]
fn a_revoked_token_is_refused_on_the_next_request() {
    let auth = authenticator();
    let (presented, mut record) = minted(&auth);
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    // In the future too: a clock that was set back does not revive it.
    for revoked_at_ms in [NOW_MS - 1, NOW_MS, NOW_MS + 1, i64::MIN] {
        record.revoked_at_ms = Some(revoked_at_ms);
        assert_eq!(
            auth.recall(&presented, &record, Place::default(), NOW_MS)
                .err(),
            Some(Refusal::Revoked)
        );
        assert_eq!(
            auth.verify(&presented, &record, NOW_MS).err(),
            Some(Refusal::Revoked)
        );
    }
}

#[test]
fn a_token_expires_exactly_at_its_millisecond() {
    let auth = authenticator();
    let (presented, mut record) = minted(&auth);
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    record.expires_at_ms = Some(NOW_MS);
    for (now_ms, refusal) in [
        (NOW_MS - 1, None),
        (NOW_MS, Some(Refusal::Expired)),
        (NOW_MS + 1, Some(Refusal::Expired)),
    ] {
        assert_eq!(
            auth.recall(&presented, &record, Place::default(), now_ms)
                .err(),
            refusal,
            "{now_ms}"
        );
        assert_eq!(
            auth.verify(&presented, &record, now_ms).err(),
            refusal,
            "{now_ms}"
        );
    }
}

#[test]
fn a_dead_token_costs_no_run_of_argon2() {
    let auth = authenticator();
    let (presented, mut record) = minted(&auth);
    let runs = auth.argon2_runs();
    record.expires_at_ms = Some(NOW_MS);
    assert_eq!(
        auth.verify(&presented, &record, NOW_MS).err(),
        Some(Refusal::Expired)
    );
    record.revoked_at_ms = Some(NOW_MS);
    assert_eq!(
        auth.verify(&presented, &record, NOW_MS).err(),
        Some(Refusal::Revoked)
    );
    assert_eq!(auth.argon2_runs(), runs);
}

#[test]
fn a_guesser_is_not_told_that_a_token_is_dead() {
    let auth = authenticator();
    let (holder, mut record) = minted(&auth);
    record.expires_at_ms = Some(NOW_MS - 1);
    record.revoked_at_ms = Some(NOW_MS - 1);
    let guess = guess(&holder);
    for refusal in [
        auth.recall(&guess, &record, Place::default(), NOW_MS).err(),
        auth.verify(&guess, &record, NOW_MS).err(),
    ] {
        assert_eq!(
            refusal.map(Refusal::message),
            Some(Refusal::Unknown.message())
        );
    }
}

#[test]
fn the_memo_does_not_survive_a_changed_hash() {
    let auth = authenticator();
    let (presented, record) = minted(&auth);
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    let (_, other) = minted(&auth);
    let changed = TokenRecord {
        secret_phc: other.secret_phc,
        ..record
    };
    assert!(
        auth.recall(&presented, &changed, Place::default(), NOW_MS)
            .expect("not refused")
            .is_none()
    );
    assert_eq!(
        auth.verify(&presented, &changed, NOW_MS).err(),
        Some(Refusal::WrongSecret)
    );
}

#[test]
fn the_record_of_another_token_grants_nothing() {
    let auth = authenticator();
    let (presented, record) = minted(&auth);
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    let (_, other) = minted(&auth);
    let swapped = TokenRecord {
        public_id: other.public_id,
        ..record
    };
    assert_eq!(
        auth.recall(&presented, &swapped, Place::default(), NOW_MS)
            .err(),
        Some(Refusal::Unknown)
    );
    assert_eq!(
        auth.verify(&presented, &swapped, NOW_MS).err(),
        Some(Refusal::Unknown)
    );
}

#[test]
fn a_grant_follows_the_record_of_this_request_not_of_the_first() {
    let auth = authenticator();
    let (presented, mut record) = minted(&auth);
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    record.access = Access::Read;
    let grant = auth
        .recall(&presented, &record, Place::default(), NOW_MS)
        .expect("not refused")
        .expect("remembered");
    assert_eq!(grant.access(), Access::Read);
    assert_eq!(write_target(&grant), None);
}

#[test]
fn a_damaged_hash_is_the_servers_fault_and_no_panic() {
    let auth = authenticator();
    let (presented, mut record) = minted(&auth);
    record.secret_phc.truncate(40);
    let refusal = auth
        .verify(&presented, &record, NOW_MS)
        .expect_err("refused");
    assert_eq!(refusal, Refusal::Failed(HashError::Undecodable));
    assert!(refusal.is_internal());
}

#[test]
fn a_hash_of_another_cost_is_upgraded_once_and_the_new_one_is_known() {
    let auth = authenticator();
    let older = Authenticator::with_cost(Cost {
        memory_kib: 16,
        ..Cost::CHEAP
    })
    .expect("set up");
    let (presented, mut record) = minted(&older);
    assert!(
        auth.upgrade(&presented, &record)
            .expect("not failed")
            .is_none(),
        "not verified yet"
    );
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    let upgraded = auth
        .upgrade(&presented, &record)
        .expect("not failed")
        .expect("at another cost");
    assert!(
        auth.upgrade(&presented, &record)
            .expect("not failed")
            .is_none(),
        "claimed already"
    );
    record.secret_phc = upgraded.phc;
    assert_eq!(record.secret_tag, upgraded.tag);
    assert!(
        auth.recall(&presented, &record, Place::default(), NOW_MS)
            .expect("not refused")
            .is_some()
    );
    assert!(
        auth.upgrade(&presented, &record)
            .expect("not failed")
            .is_none(),
        "at this cost now"
    );
    authenticator()
        .verify(&presented, &record, NOW_MS)
        .expect("granted by another process");
}

#[test]
fn a_wrong_secret_never_upgrades_a_hash() {
    let auth = authenticator();
    let older = Authenticator::with_cost(Cost {
        memory_kib: 16,
        ..Cost::CHEAP
    })
    .expect("set up");
    let (holder, mut record) = minted(&older);
    let guess = lucky_guess(&holder, &mut record);
    assert_eq!(
        auth.verify(&guess, &record, NOW_MS).err(),
        Some(Refusal::WrongSecret)
    );
    assert!(auth.upgrade(&guess, &record).expect("not failed").is_none());
}

#[test]
fn the_whole_way_works_at_the_real_cost() {
    let auth = Authenticator::new().expect("set up");
    let (presented, record) = minted(&auth);
    assert!(
        record
            .secret_phc
            .starts_with("$argon2id$v=19$m=19456,t=2,p=1$")
    );
    auth.verify(&presented, &record, NOW_MS).expect("granted");
    assert!(
        auth.recall(&presented, &record, Place::default(), NOW_MS)
            .expect("not refused")
            .is_some()
    );
}
