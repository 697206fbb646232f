//! Filters against filters: whether a subscription can bring what another filter stands for (MQTT 5, 4.7).

/// Whether there is a topic that both filters match. A share's name counts for nothing: what `$share/{name}/{filter}` brings, the filter
/// behind the name brings.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (without_share(one), without_share(other));
    // A wildcard in the first place matches nothing that begins with `$` (4.7.2).
    if one.starts_with('$') != other.starts_with('$') {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // `a/#` matches `a` itself, too.
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(level), Some(against)) if level == against || level == "+" || against == "+" => {}
            _ => return false,
        }
    }
}

fn without_share(filter: &str) -> &str {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    shared.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::channels::Channel;
    use crate::protocol::rights::matches;
    use crate::protocol::topic::TopicTree;

    #[test]
    fn whatever_brings_an_answer_with_a_credential_is_found() {
        for base in ["iotflow", "plant/two"] {
            let secret = Channel::DiscoveryResponse.filter(&TopicTree::new(base).expect("a base topic"));
            for below in [
                "#",
                "+/#",
                "+/+/#",
                "+/+/+",
                "discovery/#",
                "discovery/+/+",
                "discovery/+/pump-9",
                "discovery/response/#",
            ] {
                for filter in [
                    format!("{base}/{below}"),
                    format!("$share/name/{base}/{below}"),
                    "#".to_owned(),
                    "+/#".to_owned(),
                ] {
                    assert!(overlap(&filter, &secret), "{filter} at {base}");
                }
            }
            for below in [
                "devices/#",
                "+/register/+",
                "discovery/register/#",
                "+/+/a/b",
                "+",
                "discovery",
                "discovery/response/a/b",
            ] {
                let filter = format!("{base}/{below}");
                assert!(!overlap(&filter, &secret), "{filter}");
            }
            assert!(!overlap("$SYS/#", &secret));
        }
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "$s", "+"]);
        (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(mut levels, all_below)| {
            if all_below {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    /// Every topic of up to five levels of these names: where two of the filters meet, they meet in one of them.
    fn topics() -> Vec<String> {
        let mut topics: Vec<String> = vec![String::new()];
        let mut all = Vec::new();
        for at in 0..5 {
            let names = ["a", "b", "", "$s"];
            let join = |topic: &String, name: &str| if at == 0 { name.to_owned() } else { format!("{topic}/{name}") };
            topics = topics.iter().flat_map(|topic| names.map(|name| join(topic, name))).collect();
            all.extend(topics.iter().cloned());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn two_filters_overlap_where_a_topic_is_in_both(one in filters(), other in filters()) {
            let both = topics().iter().any(|topic| matches(&one, "", topic) && matches(&other, "", topic));
            prop_assert_eq!(overlap(&one, &other), both, "{} {}", one, other);
            prop_assert_eq!(overlap(&other, &one), both);
            prop_assert_eq!(overlap(&format!("$share/x/{one}"), &other), both);
        }
    }
}
