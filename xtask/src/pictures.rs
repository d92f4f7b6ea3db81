//! Whether a page of pictures shows them: opened in a headless Chromium, every picture measured, nothing fetched.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::output;

/// Measures, in the browser, what the page's pictures have come to. It goes into a copy of the page: the page itself has
/// no script, and forbids them. For every picture: its title, its width and height, how many marks it has, how many of
/// those have no extent at all, and how many texts or marks stand out of it.
const PROBE: &str = r#"<script>
const lines = [...document.querySelectorAll('svg')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('rect, circle, line, polyline, text')];
  const boxes = marks.map(mark => mark.getBoundingClientRect());
  const empty = boxes.filter(box => !(box.width > 0 || box.height > 0)).length;
  const out = boxes.filter(box => box.left < frame.left - 2 || box.right > frame.right + 2 ||
    box.top < frame.top - 2 || box.bottom > frame.bottom + 2).length;
  return ['PICTURE', svg.getAttribute('aria-label'), frame.width, frame.height, marks.length, empty, out].join('\t');
});
lines.push('FETCHED\t' + performance.getEntriesByType('resource').map(entry => entry.name).join(' '));
lines.push('WIDTH\t' + (document.documentElement.scrollWidth - document.documentElement.clientWidth));
document.body.innerHTML = '<pre></pre>';
document.body.firstChild.textContent = lines.join('\n');
</script>"#;

/// Checks the page at `path`, which has to hold `pictures` of them; files of its own go into `folder`.
pub(crate) fn check(path: &Path, pictures: usize, folder: &Path) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">";
    if page.matches(policy).count() != 1 {
        bail!("{}: the page does not forbid the browser to fetch", path.display());
    }
    let copy = folder.join("probed.html");
    fs::write(&copy, page.replace(policy, "").replace("</body>", &format!("{PROBE}</body>")))?;
    let dom = browse(&copy, &["--dump-dom"])?;
    let found = judge(&dom, pictures).with_context(|| path.display().to_string())?;
    println!("{}: {found} pictures drawn, nothing fetched", path.display());
    fs::remove_file(&copy)?;
    Ok(())
}

/// Opens a page in a window as wide as a laptop's.
fn browse(page: &Path, options: &[&str]) -> Result<String> {
    let profile = page.with_extension("profile");
    let mut command = Command::new("chromium");
    // The sandbox needs rights that containers lack; the page is our own.
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg("--window-size=1280,900").args(options);
    let dom = output(command.arg(format!("file://{}", page.display())).stderr(std::process::Stdio::null()));
    let _ = fs::remove_dir_all(&profile);
    dom
}

fn judge(dom: &str, pictures: usize) -> Result<usize> {
    let mut found = 0;
    let mut fetched = None;
    for line in dom.lines() {
        let fields: Vec<&str> = line.trim_start_matches("<html>").split('\t').collect();
        match fields.as_slice() {
            [start, name, rest @ ..] if start.ends_with("PICTURE") => {
                let numbers: Vec<f64> =
                    rest.iter().map(|n| n.parse()).collect::<Result<_, _>>().context(line.to_owned())?;
                let &[width, height, marks, empty, out] = numbers.as_slice() else { bail!("{line}") };
                if width < 100.0 || height < 30.0 || marks < 4.0 || empty > 0.0 || out > 0.0 {
                    bail!(
                        "`{name}`: {width} by {height} pixels, {marks} marks, {empty} of them empty, {out} outside"
                    );
                }
                found += 1;
            }
            [start, names] if start.ends_with("FETCHED") => fetched = Some(names.trim()),
            [start, wider] if start.ends_with("WIDTH") && !wider.starts_with('0') => {
                bail!("the page is {wider} pixels wider than its window");
            }
            _ => {}
        }
    }
    match fetched {
        None => bail!("the browser has run no probe"),
        Some("") if found == pictures => Ok(found),
        Some("") => bail!("{found} pictures, {pictures} expected"),
        Some(names) => bail!("fetched: {names}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_is_seen() {
        let page = |picture: &str, fetched: &str| {
            format!("<pre>PICTURE\tloss\t{picture}\nFETCHED\t{fetched}\nWIDTH\t0</pre>")
        };
        assert_eq!(judge(&page("400\t200\t9\t0\t0", ""), 1).unwrap(), 1);
        assert!(judge(&page("400\t200\t9\t0\t0", ""), 2).is_err());
        for bad in [
            "0\t200\t9\t0\t0",
            "400\t0\t9\t0\t0",
            "400\t200\t1\t0\t0",
            "400\t200\t9\t2\t0",
            "400\t200\t9\t0\t1",
            "NaN\t1\t9\t0\t0",
        ] {
            assert!(judge(&page(bad, ""), 1).is_err(), "{bad}");
        }
        assert!(
            judge(&page("400\t200\t9\t0\t0", "http://x/y.css"), 1).unwrap_err().to_string().contains("y.css")
        );
        assert!(judge("PICTURE\tloss\t400\t200\t9\t0\t0", 1).unwrap_err().to_string().contains("no probe"));
    }
}
