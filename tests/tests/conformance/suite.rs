//! The same deeds for a store and for the model.

use super::deeds::{Deed, Deeds, Size, Wrong, region};
use super::side::{Outcome, Side};
use contexts::store::Store;
use contexts::store::model::Model;
use rand::SeedableRng;
use rand::rngs::StdRng;
use system_tests::Result;

/// The seeds to run: so many, or the one that the environment names.
pub fn seeds(count: u64) -> Vec<u64> {
    let named = std::env::var("HUBCAST_CONFORMANCE_SEED").ok();
    match named.and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

/// Does so many deeds. Behind each that may have changed something, both hold the same.
pub async fn run<S: Store>(store: &S, seed: u64, size: Size, steps: usize) -> Result<()> {
    let model = Model::new(region());
    let (mut ours, mut theirs) = (Side::new(store), Side::new(&model));
    let mut deeds = Deeds::new(StdRng::seed_from_u64(seed), size);
    let mut applied = 0;
    for step in 0..steps {
        let deed = deeds.next(&model);
        let at = || format!("HUBCAST_CONFORMANCE_SEED={seed}, step {step}: {deed:?}");
        let expected = theirs.does(&deed).await?;
        let found = ours.does(&deed).await;
        let found = found.map_err(|e| format!("{}: {e}", at()))?;
        if found != expected {
            let line = format!("{}: {found:?}, where the model has {expected:?}", at());
            return Err(line.into());
        }
        is_plausible(&deed, &expected).map_err(|why| format!("{}: {why}", at()))?;
        applied += usize::from(matches!(expected, Outcome::Pushed(_)));
        let (found, expected) = (ours.all(size).await?, theirs.all(size).await?);
        if found != expected {
            let line = format!(
                "{}: holds {found:?}, where the model has {expected:?}",
                at()
            );
            return Err(line.into());
        }
    }
    match applied * 4 > steps {
        true => Ok(()),
        false => Err(format!("seed {seed}: only {applied} pushes of {steps} deeds").into()),
    }
}

/// What the model itself must say: a message that is wrong is refused, and one that is right is not.
fn is_plausible(deed: &Deed, outcome: &Outcome) -> Result<()> {
    let wrong = match deed {
        Deed::Push { wrong, .. } | Deed::Heartbeat { wrong, .. } | Deed::Release { wrong } => {
            *wrong
        }
        Deed::Synced(_, wrong) => *wrong,
        Deed::Claim { wrong, .. } => match wrong {
            super::deeds::Misclaim::Nothing => Wrong::Nothing,
            _ => Wrong::Session,
        },
        Deed::Buckets(_) | Deed::Hello => Wrong::Nothing,
    };
    let is_refused = matches!(outcome, Outcome::Refused(_));
    match is_refused == (wrong != Wrong::Nothing) {
        true => Ok(()),
        false => Err(format!("it is {outcome:?}").into()),
    }
}
