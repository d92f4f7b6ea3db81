//! Layers as descriptions have them, and what is refused.

use super::*;
use crate::spec::{Run, tests::MLP};
use std::path::Path;

pub(in crate::spec) fn model(layers: &str) -> Result<ModelSpec> {
    let start = MLP.find("layers").unwrap();
    let end = MLP.find("[train]").unwrap();
    let text = format!("{}layers = [{layers}]\n{}", &MLP[..start], &MLP[end..]);
    Ok(Run::parse(&text, Path::new("run.toml"))?.model)
}

const CNN: &str = r#"
    { op = "conv", name = "stem", out = 4, kernel = 3, stride = 2, pad = 1, bn = true, act = "relu", bits = 8 },
    { op = "depthwise", kernel = [3, 1], pad = [1, 0] },
    { op = "add", from = "stem", act = "relu6" },
    { op = "max-pool", kernel = 2 },
    { op = "flatten" },
    { op = "linear", out = 10, bits = 8, grid = "mid-tread", step = "uniform" }"#;

#[test]
fn shapes_follow_the_textbook_formulae() {
    let m = model(CNN).unwrap();
    let shapes = m.check(Shape { h: 9, w: 7, c: 1 }, 10).unwrap();
    let want = [(5, 4, 4), (5, 4, 4), (5, 4, 4), (2, 2, 4), (1, 1, 16), (1, 1, 10)];
    assert_eq!(shapes, want.map(|(h, w, c)| Shape { h, w, c }));
    assert_eq!(m.layers[2].op, Op::Add { from: Value::Layer(0), act: Act::Relu6 });
    assert_eq!(m.layers[1].op.quant().unwrap().levels.bits(), 2); // [qat]
    assert_eq!(m.layers[5].op.quant().unwrap().levels.bits(), 8); // its own
}

#[test]
fn incoherence_puts_a_rotation_before_the_layer() {
    let m = model(
        r#"{ op = "flatten", name = "f" }, { op = "linear", name = "l", out = 6, incoherence = true, bits = 2 },
        { op = "linear", out = 10, input = "l", incoherence = false }"#,
    )
    .unwrap();
    let names: Vec<_> = m.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["f", "l.rotation", "l", "linear2"]);
    assert_eq!([1, 2, 3].map(|i| m.layers[i].input), [0, 1, 2].map(Value::Layer));
    assert_eq!(
        (m.layers[1].op.clone(), m.rotation_before(2), m.rotation_before(3)),
        (Op::Rotate, Some(1), None)
    );
    let image = Shape { h: 4, w: 2, c: 3 };
    assert_eq!(m.check(image, 10).unwrap()[1], Shape::flat(24));
}

#[test]
fn padding_has_four_sides_or_follows_the_input() {
    let window = |keys: &str| {
        let m = model(&format!(r#"{{ op = "conv", out = 1, kernel = [10, 4], {keys} }}"#)).unwrap();
        let Op::Conv { window, .. } = m.layers[0].op else { panic!() };
        window
    };
    let input = Shape { h: 49, w: 10, c: 1 };
    for (keys, pads, output) in [
        ("stride = [2, 2], pad = \"same\"", [4, 1, 5, 1], [25, 5]), // 24·2 + 10 − 49 = 9, 4·2 + 4 − 10 = 2
        ("pad = \"same\"", [4, 1, 5, 2], [49, 10]),
        ("stride = 12, pad = \"same\"", [4, 0, 5, 0], [5, 1]),
        ("pad = [3, 1]", [3, 1, 3, 1], [46, 9]),
        ("pad = [3, 1, 2, 0]", [3, 1, 2, 0], [45, 8]),
        ("pad = 2", [2; 4], [44, 11]),
    ] {
        assert_eq!((window(keys).pads(input), window(keys).output(input)), (pads, Some(output)), "{keys}");
    }
    assert_eq!(window("stride = 1").output(Shape { h: 9, w: 9, c: 1 }), None);
}

#[test]
fn a_reconstruction_has_the_width_of_its_input() {
    let mut m = model(r#"{ op = "linear", out = 4, act = "relu" }, { op = "linear", out = 12 }"#).unwrap();
    m.task = Task::Reconstruct;
    assert!(m.check(Shape::flat(12), 0).is_ok());
    let e = m.check(Shape::flat(11), 0).unwrap_err().to_string();
    assert!(e.contains("11 features"), "{e}");
    m.softmax = true;
    let e = m.check(Shape::flat(12), 0).unwrap_err().to_string();
    assert!(e.contains("softmax is for classes"), "{e}");
    let mut m = model(r#"{ op = "linear", out = 12, act = "sigmoid" }"#).unwrap();
    m.task = Task::Reconstruct;
    assert!(m.check(Shape::flat(12), 0).is_ok());
}

#[test]
fn misfits_name_the_layer_and_the_remedy() {
    let image = Shape { h: 8, w: 8, c: 1 };
    let cases = [
        (r#"{ op = "linear", out = 10 }"#, "flatten"),
        (r#"{ op = "conv", out = 10, kernel = 9 }"#, "kernel of 9x9"),
        (r#"{ op = "linear", out = 10, incoherence = true }"#, "flatten"),
        (
            r#"{ op = "flatten" }, { op = "linear", out = 5 }, { op = "linear", out = 10, incoherence = true }"#,
            "odd number of inputs, 5",
        ),
        (r#"{ op = "flatten" }, { op = "linear", out = 9 }"#, "10 classes"),
        (r#"{ op = "flatten" }, { op = "linear", out = 10, act = "relu" }"#, "remove `act`"),
        (r#"{ op = "flatten" }, { op = "linear", out = 10, act = "sigmoid" }"#, "probabilities"),
        (r#"{ op = "flatten" }, { op = "sigmoid" }"#, "a sigmoid cannot follow a flatten"),
        (r#"{ op = "conv", name = "a", out = 2, kernel = 3 }, { op = "add", from = "input" }"#, "it adds"),
    ];
    for (layers, want) in cases {
        let e = model(layers).unwrap().check(image, 10).unwrap_err().to_string();
        assert!(e.contains("layer `") && e.contains(want), "{e}");
    }
}
