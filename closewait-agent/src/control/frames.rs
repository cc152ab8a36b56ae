//! Frames of an answer: a length, and that number of bytes. An end mark with the number of frames follows the last
//! one, so that the client recognizes an answer that was cut off. In place of a frame may come the reason why the
//! answer ends early.

/// Maximum length of a frame, bytes: far more than a socket with ten thousand owners has.
pub(super) const MAX_FRAME: usize = 16 << 20;
/// Size of the length in front of a frame, bytes.
pub(super) const LENGTH: usize = size_of::<u32>();
/// Mark in place of a length. The length of a reason follows, then the reason why the answer ends early.
pub(super) const REFUSAL: u32 = u32::MAX;
/// Maximum length of a reason, bytes.
pub(super) const MAX_REFUSAL: usize = 4096;

/// Reader of the frames of an answer.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    frames: u64,
    ended: bool,
}

impl FrameReader {
    /// Gives each complete frame at the start of `bytes` to `take`, and removes it from there. Returns whether the
    /// answer has ended.
    ///
    /// # Errors
    ///
    /// If the bytes are no frames, the agent gives a reason why the answer ends early, or `take` refuses a frame.
    pub(super) fn read(
        &mut self,
        bytes: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<bool, String> {
        let mut rest = bytes.as_slice();
        while !self.ended
            && let Some((length, after)) = rest.split_first_chunk::<LENGTH>()
        {
            let length = u32::from_le_bytes(*length);
            if length == REFUSAL {
                let Some((length, after)) = after.split_first_chunk() else { break };
                let length = u32::from_le_bytes(*length) as usize;
                let Some(why) = after.get(..length.min(MAX_REFUSAL)) else { break };
                return Err(String::from_utf8_lossy(why).into_owned());
            }
            let length = length as usize;
            if length > MAX_FRAME {
                return Err(format!("a part of it has {length} bytes, and {MAX_FRAME} are possible"));
            }
            if length == 0 {
                let Some((frames, after)) = after.split_first_chunk() else { break };
                let frames = u64::from_le_bytes(*frames);
                if frames != self.frames {
                    return Err(format!("{} parts of {frames} came", self.frames));
                }
                (self.ended, rest) = (true, after);
            } else {
                let Some((frame, after)) = after.split_at_checked(length) else { break };
                take(frame)?;
                self.frames += 1;
                rest = after;
            }
        }
        if self.ended && !rest.is_empty() {
            return Err("something follows its end".to_owned());
        }
        let used = bytes.len() - rest.len();
        bytes.drain(..used);
        Ok(self.ended)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Size of the end mark, bytes: a length of 0, and the number of frames.
    const END_MARK: usize = LENGTH + size_of::<u64>();

    /// Returns the bytes of an answer with these frames.
    fn written(frames: &[Vec<u8>]) -> Vec<u8> {
        let lengths = frames.iter().map(|frame| (frame.len() as u32).to_le_bytes());
        let mut all: Vec<u8> = lengths.zip(frames).flat_map(|(length, frame)| [&length[..], frame].concat()).collect();
        all.extend([0; LENGTH]);
        all.extend((frames.len() as u64).to_le_bytes());
        all
    }

    /// Reads frames from `bytes`, in parts of `step` bytes. Returns them, and whether the answer has ended.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<Vec<u8>>, bool), String> {
        let (mut reader, mut waiting, mut frames, mut ended) = (FrameReader::default(), Vec::new(), Vec::new(), false);
        for part in bytes.chunks(step) {
            waiting.extend_from_slice(part);
            ended = reader.read(&mut waiting, |frame| {
                frames.push(frame.to_vec());
                Ok(())
            })?;
        }
        Ok((frames, ended))
    }

    #[test]
    fn an_answer_that_was_cut_off_has_no_end() {
        let frames = [b"one".to_vec(), b"two".to_vec()];
        let all = written(&frames);
        assert_eq!(all.len(), 2 * (LENGTH + 3) + END_MARK);
        for length in 0..all.len() {
            assert!(!read(&all[..length], 5).unwrap().1, "{length} of {}", all.len());
        }
        assert_eq!(read(&all, 5), Ok((frames.to_vec(), true)));
        assert_eq!(read(&written(&[]), 1), Ok((Vec::new(), true)), "an empty one is one");
    }

    #[test]
    fn a_part_that_is_missing_too_long_or_behind_the_end_is_noticed() {
        let one = written(&[b"one".to_vec()]);
        let missing = [&written(&[b"one".to_vec(), b"two".to_vec()])[..LENGTH + 3], &one[LENGTH + 3..]].concat();
        assert_eq!(read(&missing, 100).map(|(frames, _)| frames.len()), Ok(1));
        let two = written(&[b"one".to_vec(), b"two".to_vec()]);
        assert!(read(&two[LENGTH + 3..], 100).unwrap_err().contains("1 parts of 2 came"));
        assert!(read(&[one.as_slice(), b"x"].concat(), 100).unwrap_err().contains("follows its end"));
        assert!(read(&(u32::MAX - 1).to_le_bytes(), 1).unwrap_err().contains("are possible"));
    }

    #[test]
    fn a_reason_in_place_of_a_frame_ends_the_answer() {
        let frame = &written(&[b"one".to_vec()])[..LENGTH + 3];
        let all = [frame, &REFUSAL.to_le_bytes(), &5_u32.to_le_bytes(), b"never"].concat();
        for step in [1, 7, 100] {
            assert_eq!(read(&all, step), Err("never".to_owned()));
            assert!(!read(&all[..all.len() - 1], step).unwrap().1, "half a reason is none");
        }
    }

    #[test]
    fn a_frame_that_is_refused_ends_the_reading() {
        let mut bytes = written(&[b"one".to_vec(), b"two".to_vec()]);
        let refused = FrameReader::default().read(&mut bytes, |_frame| Err("no".to_owned()));
        assert_eq!(refused, Err("no".to_owned()));
    }

    proptest! {
        #[test]
        fn any_frames_in_any_parts_come_out_the_same(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            step in 1_usize..500,
        ) {
            prop_assert_eq!(read(&written(&frames), step), Ok((frames, true)));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, step in 1_usize..20) {
            let _any_result = read(&bytes, step);
        }
    }
}
