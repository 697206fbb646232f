//! Archives with anything about them changed, by chance and by whoever can make check sums.

use std::fs;
use std::io::Read as _;

use flate2::read::GzDecoder;
use iotflow::broker::backup::manifest::Limits;
use iotflow::broker::backup::restore::restore;
use proptest::prelude::*;
use tar::Header;

use crate::forge::gzip;
use crate::place::{Place, sample, tree};

proptest! {
    // Each case writes to the disk: a fault is to be seen before it is small.
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_truncated_archive_changes_nothing(cut in 0.0..1.0_f64) {
        let place = Place::new();
        let whole = fs::read(sample(&place)).expect("it is there");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
        let length = (whole.len() as f64 * cut) as usize;
        place.refusal(&whole[..length], &Limits::default());
    }

    #[test]
    fn a_flipped_bit_is_found_or_makes_no_difference(position in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let place = Place::new();
        let mut bytes = fs::read(sample(&place)).expect("it is there");
        restore(&place.path("backup"), &place.path("sound"), &Limits::default()).expect("it is sound");
        let at = position.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let before = tree(&place.target());
        match place.restore(&bytes, &Limits::default()) {
            // gzip's own header has fields that nobody reads.
            Ok(_) => prop_assert_eq!(tree(&place.target()), tree(&place.path("sound"))),
            Err(_) => prop_assert_eq!(tree(&place.target()), before),
        }
    }

    #[test]
    fn no_change_to_the_archive_reaches_outside_of_the_target(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        // Whoever makes an archive makes its check sums too: gzip's, and tar's.
        let place = Place::new();
        let mut bytes = Vec::new();
        let file = fs::File::open(sample(&place)).expect("it is there");
        GzDecoder::new(file).read_to_end(&mut bytes).expect("it is sound");
        // Names, kinds, lengths and modes are in the headers and the manifest: the content is left alone.
        let headers = bytes.len().min(4096);
        for (position, value) in &changes {
            bytes[position.index(headers)] = *value;
        }
        for start in (0..headers).step_by(512) {
            if bytes.get(start + 257..start + 262) == Some(b"ustar") {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
                header.set_cksum();
                bytes[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        let outside = |place: &Place| {
            let mut all = tree(place.folder.path());
            all.retain(|path, _| !path.starts_with("target") && !path.to_string_lossy().starts_with(".target.before-restore-"));
            all
        };
        fs::write(place.path("archive"), gzip(&bytes)).expect("it is ours");
        let (before, target) = (outside(&place), tree(&place.target()));
        let outcome = place.restore(&gzip(&bytes), &Limits::default());
        prop_assert_eq!(outside(&place), before);
        if outcome.is_err() {
            prop_assert_eq!(tree(&place.target()), target);
        }
    }
}
