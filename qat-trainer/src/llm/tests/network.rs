//! The network in its several ways of being run, loaded and changed.

use super::*;
use qat_kernels::config::StepRule;
use qat_kernels::{Grid, Levels};

fn cached(decoder: &Decoder, ids: &Tensor, parts: &[i64]) -> Tensor {
    let (batch, _) = ids.size2().unwrap();
    let mut cache = decoder.cache(batch as usize, 64).unwrap();
    let mut start = 0;
    let mut hidden = Vec::new();
    for &part in parts {
        hidden.push(decoder.hidden_cached(&ids.narrow(1, start, part), &mut cache).unwrap());
        start += part;
    }
    assert_eq!(cache.len() as i64, start);
    Tensor::cat(&hidden, 1)
}

#[test]
fn with_a_cache_the_hidden_states_are_the_same_however_the_tokens_are_cut() {
    for architecture in BOTH {
        let decoder = decoder(&tiny(architecture));
        let ids = tokens(5, 2, 12);
        let whole = decoder.hidden(&ids).unwrap();
        for parts in [&[12][..], &[1; 12], &[5, 1, 1, 4, 1], &[1, 11]] {
            let off = difference(&cached(&decoder, &ids, parts), &whole);
            assert!(off < 1e-5, "{parts:?}: {off}");
        }
    }
}

#[test]
fn a_truncated_cache_goes_on_from_there_and_a_full_one_refuses() {
    let decoder = decoder(&tiny(Architecture::Llama));
    let (ids, other) = (tokens(5, 1, 8), tokens(6, 1, 8));
    let mut cache = decoder.cache(1, 10).unwrap();
    let _ = decoder
        .hidden_cached(&Tensor::cat(&[&ids.narrow(1, 0, 3), &other.narrow(1, 0, 5)], 1), &mut cache)
        .unwrap();
    assert!(
        decoder
            .hidden_cached(&ids.narrow(1, 0, 3), &mut cache)
            .unwrap_err()
            .to_string()
            .contains("cache for 10")
    );
    cache.truncate(3);
    let rest = decoder.hidden_cached(&ids.narrow(1, 3, 5), &mut cache).unwrap();
    assert!(difference(&rest, &decoder.hidden(&ids).unwrap().narrow(1, 3, 5)) < 1e-5);
}

#[test]
fn greedy_text_is_that_of_the_network_without_a_cache() {
    let decoder = decoder(&tiny(Architecture::Qwen2));
    let prompt = [3u32, 77, 200];
    let mut sequence = decoder.begin(32).unwrap();
    let mut text = prompt.to_vec();
    let stop = Stop { tokens: 20, ends: &[] };
    let end = generate(sequence.as_mut(), &prompt, Sampling::default(), stop, |token| {
        text.push(token);
        Ok(true)
    });
    assert_eq!(end.unwrap(), Generation::Tokens);
    for i in prompt.len()..text.len() {
        let ids: Vec<i64> = text[..i].iter().map(|&t| t.into()).collect();
        let logits = decoder.forward(&Tensor::from_slice(&ids).unsqueeze(0)).unwrap();
        assert_eq!(logits.get(0).get(-1).argmax(0, false).int64_value(&[]), i64::from(text[i]), "{i}");
    }
    let nothing = sequence.feed(&[]).unwrap_err().to_string();
    assert!(nothing.contains("at least 1") && decoder.loss(&prompt[..1]).is_err());
    // The same text again stops where it is told to.
    let ended = |stop, wanted: &mut dyn FnMut(u32) -> bool| {
        let mut text = decoder.begin(8).unwrap();
        generate(text.as_mut(), &prompt, Sampling::default(), stop, |token| Ok(wanted(token))).unwrap()
    };
    assert_eq!(ended(Stop { tokens: 20, ends: &text[4..5] }, &mut |_| true), Generation::End);
    assert_eq!(ended(Stop { tokens: 20, ends: &[] }, &mut |_| true), Generation::Context);
    assert_eq!(ended(Stop { tokens: 20, ends: &[] }, &mut |_| false), Generation::Receiver);
}

#[test]
fn drawn_text_depends_on_the_seed_alone() {
    let decoder = decoder(&tiny(Architecture::Llama));
    let draw = |seed| {
        let mut sequence = decoder.begin(40).unwrap();
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, seed };
        let mut text = Vec::new();
        let stop = Stop { tokens: 30, ends: &[] };
        generate(sequence.as_mut(), &[1], sampling, stop, |token| {
            text.push(token);
            Ok(true)
        })
        .unwrap();
        text
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_folder_and_a_gguf_file_of_the_same_weights_give_equal_logits() {
    for architecture in BOTH {
        let config = tiny(architecture);
        let (_dir, file, folder) = files(&config);
        let ids = tokens(1, 1, 9);
        let wanted = decoder(&config).forward(&ids).unwrap();
        for path in [file, folder] {
            let model = LanguageModel::load(&path, Kind::Float, CPU).unwrap();
            assert!(model.decoder.forward(&ids).unwrap().equal(&wanted), "{}", path.display());
            assert_eq!(model.ends.first(), Some(&261));
            assert_eq!(model.tokenizer.encode(" the<|im_end|>").unwrap(), [258, 261]);
            assert_eq!(model.chat.unwrap().render(&[Message::new("user", "x")]).unwrap(), "x");
        }
    }
}

#[test]
fn weights_of_a_folder_are_views_of_the_file() {
    let (_dir, _, folder) = files(&tiny(Architecture::Llama));
    let source = HfFolder::open(&folder).unwrap();
    let get = || source.tensor("model.norm.weight", &[32]).unwrap();
    assert_eq!(get().data_ptr(), get().data_ptr());
    // The mapping is private: writing changes the memory and not the file.
    let _ = get().fill_(7.0);
    let again = HfFolder::open(&folder).unwrap().tensor("model.norm.weight", &[32]).unwrap();
    assert!(difference(&again, &(get() * 0.0 + 1.0)) < 1.0);
}

#[test]
fn bf16_is_near_f32_and_survives_saving() {
    let (dir, file, _) = files(&tiny(Architecture::Llama));
    let ids = tokens(1, 1, 9);
    let exact = LanguageModel::load(&file, Kind::Float, CPU).unwrap().decoder.forward(&ids).unwrap();
    let short = LanguageModel::load(&file, Kind::BFloat16, CPU).unwrap();
    let logits = short.decoder.forward(&ids).unwrap();
    assert_eq!(logits.kind(), Kind::BFloat16);
    let off = difference(&logits.to_kind(Kind::Float), &exact) / exact.abs().max().double_value(&[]);
    assert!((1e-6..0.05).contains(&off), "{off}");
    let folder = dir.path().join("bf16");
    short.save(&folder).unwrap();
    let again = LanguageModel::load(&folder, Kind::BFloat16, CPU).unwrap();
    assert!(again.decoder.forward(&ids).unwrap().equal(&logits));
}

#[test]
fn hidden_states_of_every_block_are_shown() {
    let decoder = decoder(&tiny(Architecture::Llama));
    let mut seen = Vec::new();
    let ids = tokens(1, 2, 3);
    let hidden = decoder.hidden_seen(&ids, &mut |i, x| seen.push((i, x.size()))).unwrap();
    assert_eq!(seen, [(0, vec![2, 3, 32]), (1, vec![2, 3, 32])]);
    assert!(hidden.equal(&decoder.hidden(&ids).unwrap()));
    let e = decoder.hidden(&tokens(1, 1, 65)).unwrap_err().to_string();
    assert!(e.contains("65 tokens are more than the model's context of 64"), "{e}");
}

#[test]
fn tokens_that_it_lacks_or_has_no_room_for_are_named() {
    let decoder = decoder(&tiny(Architecture::Llama)); // 270 tokens
    let refused = |e: Error, why: &str| {
        assert!(e.kind() == ErrorKind::Data && e.to_string().contains(why), "{why}: {e}");
    };
    for window in [[1, 270], [270, 1]] {
        refused(decoder.loss(&window).unwrap_err(), "token 270 is none of the model's");
    }
    let mut text = decoder.begin(4).unwrap();
    refused(text.feed(&[269, 270]).unwrap_err(), "token 270 is none of the model's");
    refused(text.feed(&[1; 5]).unwrap_err(), "5 tokens are more than the 4 there is room for");
    let _ = text.feed(&[1; 3]).unwrap();
    refused(text.feed(&[1; 2]).unwrap_err(), "5 tokens are more than the 4 there is room for");
    assert_eq!(text.len(), 3);
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let decoder = decoder(&tiny(Architecture::Llama));
    let ids = tokens(9, 1, 25);
    let text: Vec<u32> = Vec::<i64>::try_from(ids.get(0)).unwrap().into_iter().map(|t| t as u32).collect();
    let measured = perplexity(&decoder, &text, Windows { size: 10, count: 9 }).unwrap();
    let mut sum = 0.0;
    for window in 0..2 {
        let ids = ids.narrow(1, 10 * window, 10);
        let p = decoder.forward(&ids).unwrap().log_softmax(-1, Kind::Double).get(0);
        sum -= (0..9).map(|i| p.double_value(&[i, ids.int64_value(&[0, i + 1])])).sum::<f64>();
    }
    assert_eq!((measured.predictions, measured.windows.len()), (18, 2));
    assert!(
        (measured.loss - sum / 18.0).abs() < 1e-5 && (measured.perplexity - measured.loss.exp()).abs() < 1e-9
    );
    for (size, count, expected) in
        [(26, 1, "do not fill"), (1, 1, "predict nothing"), (5, 0, "predict nothing")]
    {
        let e = perplexity(&decoder, &text, Windows { size, count }).unwrap_err().to_string();
        assert!(e.contains(expected), "{e}");
    }
}

#[test]
fn generated_decoders_know_nothing_yet() {
    let config = tiny(Architecture::Qwen2);
    let (a, b) = (Decoder::generated(&config, 1).unwrap(), Decoder::generated(&config, 2).unwrap());
    let ids = tokens(1, 1, 9);
    assert!(a.forward(&ids).unwrap().equal(&Decoder::generated(&config, 1).unwrap().forward(&ids).unwrap()));
    assert!(!a.forward(&ids).unwrap().equal(&b.forward(&ids).unwrap()));
    // Nearly as likely as each other are all tokens.
    let text: Vec<u32> = (0..60).map(|i| i * 4).collect();
    let p = perplexity(&a, &text, Windows { size: 30, count: 2 }).unwrap().perplexity;
    assert!((150.0..1000.0).contains(&p), "{p}");
}

#[test]
fn rounding_touches_the_blocks_alone_and_loses_less_with_more_bits() {
    let config = tiny(Architecture::Qwen2);
    let (before, ids) = (decoder(&config), tokens(1, 1, 9));
    let exact = before.forward(&ids).unwrap();
    let pi = |bits| {
        let levels = Levels::new(bits, Grid::MidRise).unwrap();
        let quant = crate::spec::WeightQuant { levels, step: StepRule::PiAdaptive { group: 16 } };
        Scheme::Fitted(BlockQuant { quant, block: None })
    };
    let rtn = |bits| Scheme::RoundToNearest { bits, group: 32 };
    let mut sqnr = Vec::new();
    for (scheme, bits) in [(pi(2), 2.0), (pi(4), 4.0), (pi(8), 8.0), (rtn(2), 2.0), (rtn(8), 8.0)] {
        let mut decoder = decoder(&config);
        let mut names = Vec::new();
        let q = quantise(&mut decoder, scheme, |name| names.push(name.to_owned())).unwrap();
        assert_eq!(names.len(), 2 * 7);
        assert_eq!(q.weights, 2 * (32 * 32 * 2 + 2 * 16 * 32 + 3 * 64 * 32));
        assert!((bits + 0.5..bits + 1.2).contains(&q.bits), "{q:?}");
        sqnr.push(q.sqnr_db.unwrap());
        for ((name, old), (_, new)) in before.linears().iter().zip(decoder.linears()) {
            let same = old.weight().unwrap().equal(&new.weight().unwrap());
            assert_eq!(same, !name.starts_with("model.layers."), "{name}");
            assert_eq!(old.bias().is_some(), new.bias().is_some());
        }
        if bits == 8.0 {
            assert!(difference(&decoder.forward(&ids).unwrap(), &exact) < 0.2);
        }
    }
    assert!(sqnr[0] > 8.0 && sqnr[1] > sqnr[0] + 10.0 && sqnr[2] > sqnr[1] + 20.0, "{sqnr:?}");
    assert!(sqnr[0] > sqnr[3] + 1.5, "{sqnr:?}");
    let mut decoder = before;
    let e =
        quantise(&mut decoder, Scheme::RoundToNearest { bits: 2, group: 7 }, |_| ()).unwrap_err().to_string();
    assert!(
        e.contains("matrix `model.layers.0.self_attn.q_proj`: groups of 7 do not divide rows of 32"),
        "{e}"
    );
    assert!(quantise(&mut decoder, rtn(9), |_| ()).is_err());
}

#[test]
fn compensated_matrices_disturb_the_logits_less_than_rounded_ones() {
    let config = tiny(Architecture::Qwen2);
    let text: Vec<u32> = (0..640).map(|i| (i * i + i / 7) % 262).collect();
    let windows = Windows { size: 32, count: 20 };
    let ids =
        Tensor::from_slice(&text[..64].iter().map(|&t| t.into()).collect::<Vec<i64>>()).reshape([2, 32]);
    let before = decoder(&config);
    let exact = before.forward(&ids).unwrap();
    let off = |decoder: &Decoder| difference(&decoder.forward(&ids).unwrap(), &exact);
    let squared = |decoder: &Decoder| {
        (decoder.forward(&ids).unwrap() - &exact).square().mean(Kind::Double).double_value(&[])
    };
    for step in [StepRule::Uniform, StepRule::PiAdaptive { group: 16 }] {
        let quant = crate::spec::WeightQuant { levels: Levels::new(3, Grid::MidRise).unwrap(), step };
        let blocks = BlockQuant { quant, block: Some(16) };
        let (mut ours, mut nearest) = (decoder(&config), decoder(&config));
        let how = Compensation { blocks, tables: None, damping: 0.01 };
        let (sum, matrices) = quantise_compensated(&mut ours, &text, windows, &how, |_| ()).unwrap();
        let rounded = quantise(&mut nearest, Scheme::Fitted(blocks), |_| ()).unwrap();
        assert_eq!((sum.weights, sum.bits, matrices.len()), (rounded.weights, rounded.bits, 2 * 7));
        assert!(squared(&ours) < squared(&nearest), "{step:?}: {} {}", squared(&ours), squared(&nearest));
        for ((name, old), (_, new)) in before.linears().iter().zip(ours.linears()) {
            let weights = Vec::<f32>::try_from(new.weight().unwrap().reshape(-1)).unwrap();
            match matrices.get(name) {
                Some(matrix) => assert_eq!(matrix.dequantise().unwrap(), weights, "{name}"),
                None => assert!(old.weight().unwrap().equal(&new.weight().unwrap()), "{name}"),
            }
        }
    }
    // Eight bits are near; tables too, if asked.
    let quant =
        crate::spec::WeightQuant { levels: Levels::new(8, Grid::MidTread).unwrap(), step: StepRule::Uniform };
    let blocks = BlockQuant { quant, block: Some(32) };
    let how = Compensation { blocks, tables: Some(blocks), damping: 0.01 };
    let mut fine = decoder(&config);
    let (_, matrices) = quantise_compensated(&mut fine, &text, windows, &how, |_| ()).unwrap();
    assert!(matrices.contains_key("model.embed_tokens") && off(&fine) < 0.5, "{}", off(&fine));
    let e = quantise_compensated(&mut fine, &text[..31], windows, &how, |_| ()).unwrap_err();
    assert!(e.to_string().contains("31 tokens do not fill a window of 32"), "{e}");
    let how = Compensation { blocks: BlockQuant { block: Some(24), ..blocks }, ..how };
    let e = quantise_compensated(&mut fine, &text, windows, &how, |_| ()).unwrap_err().to_string();
    assert!(e.contains("blocks of 24 do not divide rows of 32"), "{e}");
}

#[test]
fn rounding_to_nearest_keeps_the_ends_of_every_group() {
    let mut decoder = decoder(&tiny(Architecture::Llama));
    let old = decoder.linears()[1].1.weight().unwrap().reshape([-1, 16]);
    quantise(&mut decoder, Scheme::RoundToNearest { bits: 3, group: 16 }, |_| ()).unwrap();
    let new = decoder.linears()[1].1.weight().unwrap().reshape([-1, 16]);
    for (old, new) in
        Vec::<Vec<f32>>::try_from(old).unwrap().iter().zip(Vec::<Vec<f32>>::try_from(new).unwrap())
    {
        let ends = |v: &[f32]| v.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
        let ((lo, hi), (a, b)) = (ends(old), ends(&new));
        assert!(lo == a && (hi - b).abs() < 1e-6);
        let mut levels = new.clone();
        levels.sort_by(f32::total_cmp);
        levels.dedup();
        assert!(levels.len() <= 8);
        assert!(old.iter().zip(&new).all(|(x, y)| (x - y).abs() <= (hi - lo) / 14.0 + 1e-6));
    }
}
