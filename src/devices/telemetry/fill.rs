//! Windows without values get what stands for them.

use std::collections::BTreeMap;

use super::window::{Fill, Function};

/// The windows that an answer has, of those that have values.
pub(super) fn fill(
    gathered: BTreeMap<u64, Vec<Option<f64>>>,
    windows: u64,
    functions: &[Function],
    fill: Fill,
) -> Vec<(u64, Vec<Option<f64>>)> {
    if fill == Fill::None {
        return gathered.into_iter().collect();
    }
    let mut filled = Vec::with_capacity(usize::try_from(windows).unwrap_or(0));
    let (mut before, mut rest): (Option<Window>, _) = (None, gathered.into_iter().peekable());
    for index in 0..windows {
        if let Some((_, values)) = rest.next_if(|(next, _)| *next == index) {
            before = Some((index, values.clone()));
            filled.push((index, values));
            continue;
        }
        let after = rest.peek();
        let stand_in = |place: usize| match fill {
            Fill::None | Fill::Null => None,
            Fill::Zero => Some(0.0),
            Fill::Previous => before.as_ref().and_then(|(_, values)| values[place]),
            Fill::Linear => between(before.as_ref()?, after?, place, index),
        };
        // The rule of every filling: nothing was counted.
        let values = functions.iter().enumerate().map(|(place, function)| match function {
            Function::Count => Some(0.0),
            _ => stand_in(place),
        });
        let values = values.collect();
        filled.push((index, values));
    }
    filled
}

type Window = (u64, Vec<Option<f64>>);

/// The point at `index` on the line between two others.
fn between(before: &Window, after: &Window, place: usize, index: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "windows are counted below 10,001")]
    let share = (index - before.0) as f64 / (after.0 - before.0) as f64;
    // Not `b + (a - b) * share`: that difference may be more than a double holds.
    Some(before.1[place]? * (1.0 - share) + after.1[place]? * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(kind: Fill) -> Vec<[Option<f64>; 2]> {
        let gathered = [(1, vec![Some(10.0), Some(2.0)]), (4, vec![Some(40.0), Some(1.0)])]
            .into_iter()
            .collect();
        let filled = fill(gathered, 6, &[Function::Mean, Function::Count], kind);
        assert!(kind == Fill::None || filled.iter().map(|(index, _)| *index).eq(0..6));
        filled.into_iter().map(|(_, values)| [values[0], values[1]]).collect()
    }

    #[test]
    fn each_kind_of_filling_puts_in_what_it_says() {
        let (first, last, none) = ([Some(10.0), Some(2.0)], [Some(40.0), Some(1.0)], [None, Some(0.0)]);
        let with = |value: f64| [Some(value), Some(0.0)];
        assert_eq!(filled(Fill::None), [first, last]);
        assert_eq!(filled(Fill::Null), [none, first, none, none, last, none]);
        assert_eq!(filled(Fill::Zero), [with(0.0), first, with(0.0), with(0.0), last, with(0.0)]);
        assert_eq!(filled(Fill::Previous), [none, first, with(10.0), with(10.0), last, with(40.0)]);
        assert_eq!(filled(Fill::Linear), [none, first, with(20.0), with(30.0), last, none]);
    }

    #[test]
    fn the_largest_numbers_lie_on_a_line_too() {
        let (first, last) = ((0, vec![Some(f64::MAX), Some(1.0)]), (2, vec![Some(-f64::MAX), None]));
        assert_eq!(between(&first, &last, 0, 1), Some(0.0));
        assert_eq!(between(&first, &last, 1, 1), None);
    }
}
