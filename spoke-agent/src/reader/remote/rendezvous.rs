//! Which of several agents a tenant belongs to: that with the highest hash of both names (rendezvous hashing, Thaler and
//! Ravishankar 1996). When an agent goes only its own tenants move, evenly to the others, and they come back with it.
//!
//! Every client must come to the same order, whatever the order in its configuration: only the names count.

/// The agents in the order in which a tenant asks them, as indices.
pub(super) fn order<'a>(agents: impl Iterator<Item = &'a str>, tenant: &str) -> Vec<usize> {
    let hash = |agent: &str| {
        let mut hasher = blake3::Hasher::new();
        // The length keeps two pairs of names apart.
        hasher.update(&(agent.len() as u64).to_le_bytes());
        hasher.update(agent.as_bytes());
        hasher.update(tenant.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let mut hashed: Vec<([u8; 32], usize)> = agents.map(hash).zip(0..).collect();
    hashed.sort_unstable_by(|a, b| b.cmp(a));
    hashed.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: [&str; 4] = ["http://a:1", "http://b:1", "http://c:1", "http://d:1"];

    fn firsts<'a>(agents: &[&'a str]) -> Vec<&'a str> {
        let tenants = (0..4_000).map(|n| format!("tenant {n}"));
        let first = |tenant: String| agents[order(agents.iter().copied(), &tenant)[0]];
        tenants.map(first).collect()
    }

    #[test]
    fn tenants_are_spread_evenly_and_only_those_of_an_agent_that_goes_move() {
        let (all, without) = (firsts(&AGENTS), firsts(&AGENTS[..3]));
        for agent in AGENTS {
            let count = all.iter().filter(|first| **first == agent).count();
            assert!((800..1_200).contains(&count), "{agent}: {count}");
        }
        for (before, after) in all.iter().zip(without) {
            assert!(*before == AGENTS[3] || *before == after);
        }
    }

    #[test]
    fn the_order_of_the_configuration_does_not_count() {
        let mut turned = AGENTS;
        turned.reverse();
        assert_eq!(firsts(&AGENTS), firsts(&turned));
    }
}
