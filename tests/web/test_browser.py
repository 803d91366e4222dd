"""The exported page in a real browser: the scores of Keras, and what people see."""

import functools
import shutil
import zipfile

import browsing
import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import AlexNetMini, export, web
from keras_tinyalex.applications import load_model
from keras_tinyalex.datasets.images import decode_image

NAMES = ("n01443537", "<b>bold</b>", "<img src=x onerror=alert(1)>")


@pytest.fixture(scope="module")
def browser():
    with browsing.open_browser(*browsing.CAMERA) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A page of a small network, with pictures of all forms in `given/`."""
    folder = tmp_path_factory.mktemp("web") / "page"
    keras.utils.set_random_seed(1)
    model = AlexNetMini(num_classes=3, width_multiplier=1 / 4)
    export(model, folder, "web", class_names=NAMES)
    (folder / "given").mkdir()
    for name, (image, options) in draw_pictures().items():
        image.save(folder / "given" / name, **options)
    (folder / "given" / "notes.png").write_text("no picture")
    return folder


@functools.cache
def draw_pictures():
    """Pictures with detail at every scale, by file name: image, options of `save`."""
    rng = np.random.default_rng(3)

    def draw(width, height, mode="RGB"):
        bands = [
            Image.fromarray(rng.integers(0, 256, (n, n), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for n in (5, 17, 60, 250)[: len(mode)]
        ]
        return Image.merge(mode, bands) if len(bands) > 1 else bands[0]

    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    return {
        "same.png": (draw(64, 64), {}),
        "small.png": (draw(9, 13), {}),
        "large.png": (draw(1300, 850), {}),
        "narrow.png": (draw(40, 700), {}),
        "gray.png": (draw(200, 100, "L"), {}),
        "transparent.png": (draw(300, 200, "RGBA"), {}),
        "photo.jpg": (draw(750, 500), {"quality": 92}),
        "turned.jpg": (draw(400, 200), {"exif": exif, "quality": 95, "subsampling": 0}),
        "palette.gif": (draw(120, 90).quantize(64), {}),
    }


# The pixels that the page reads from pictures.
PIXELS = """
const [names, image, done] = arguments;
(async () => {
  const { readPixels } = await import("./resize.js");
  const results = [];
  for (const name of names) {
    const blob = await (await fetch(name)).blob();
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    results.push(Array.from(readPixels(bitmap, image)));
  }
  return results;
})().then(done, (error) => done(String(error)));
"""


def open_page(browser, url):
    browser.get(url)
    browsing.wait_for(browser, "document.querySelector('#status').matches('.error') || "
                      "document.querySelector('#progress').hidden")  # fmt: skip
    return browser.find_element("id", "status").text


def after(browser, action, *arguments):
    """Does what people do; returns what the page says after it."""
    browser.execute_script("document.querySelector('#status').textContent = ''")
    action(*arguments)
    return browsing.wait_for(browser, "document.querySelector('#status').textContent")


def choose(browser, path):
    file = browser.find_element("id", "file")
    return after(browser, file.send_keys, str(path))


def seen(browser):
    """The name of the picture that is shown, and its answers."""
    label = browser.find_element("id", "picture").get_attribute("aria-label")
    answers = browser.find_elements("css selector", "#answers li")
    return label, [answer.text for answer in answers]


def test_pictures_are_read_as_by_python(browser, page):
    names = [f"given/{name}" for name in draw_pictures()]
    image = {"height": 64, "width": 48}
    with browsing.serve(page) as url:
        open_page(browser, url)
        found = [
            (channels, name, pixels)
            for channels in (3, 1)
            for name, pixels in zip(
                names,
                browser.execute_async_script(
                    PIXELS, names, {**image, "channels": channels}
                ),
                strict=True,
            )
        ]
    for channels, name, pixels in found:
        expected = decode_image((page / name).read_bytes(), (64, 48), channels)
        difference = np.abs(expected.astype(int) - np.reshape(pixels, expected.shape))
        # Another JPEG decoder, another rounding of transparency; and columns before
        # rows of tall pictures, in Pillow 13.
        other = ("jpg", "transparent.png", "narrow.png")
        exact = not name.endswith(other)
        assert difference.max() <= (0 if exact else 2), name


def test_scores_are_those_of_keras(browser, page):
    names = [f"given/{name}" for name in draw_pictures()]
    with browsing.serve(page) as url:
        open_page(browser, url)
        results = browsing.classify(browser, names)
    images = np.stack([decode_image((page / name).read_bytes()) for name in names])
    expected = web.read_scores(page, images.astype(np.float32))
    scores = np.array([result["scores"] for result in results])
    assert np.ptp(expected, axis=0).max() > 0.01  # they depend on the picture
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    exact = [i for i, name in enumerate(names) if "same" in name or "large" in name]
    np.testing.assert_allclose(scores[exact], expected[exact], atol=1e-5)


def test_what_people_see(browser, page):
    with browsing.serve(page) as url:
        assert open_page(browser, url).startswith("Ready")
        said = choose(browser, page / "given" / "large.png")
        _, rows = seen(browser)
        assert len(rows) == 3
        assert said.split(",")[0] == rows[0].split("\n")[0]  # the best one
        # Names are text, whatever they hold.
        assert {row.split("\n")[0] for row in rows} == {"goldfish", *NAMES[1:]}
        assert not browser.find_elements("css selector", "#answers b, #answers img")
        assert NAMES[2] in browser.find_element("id", "card").get_property(
            "textContent"
        )

        browser.find_element("id", "occlude").click()
        text = "document.querySelector('#explanation').textContent"
        browsing.wait_for(browser, f"{text}.startsWith('Bright parts')")
        assert browser.find_element("id", "map").is_displayed()

        wrong = choose(browser, page / "given" / "notes.png")
        assert wrong == "notes.png: it is not a picture that this browser can read."
        outside = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(name.startswith(url) for name in browsing.wait_for(browser, outside))
        assert browser.get_log("browser") == []


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_pictures(way, browser, page):
    with browsing.serve(page) as url:
        open_page(browser, url)
        choose(browser, page / "given" / "large.png")
        chosen = seen(browser)
        choose(browser, page / "given" / "small.png")
        assert seen(browser)[1] != chosen[1]
        after(browser, browsing.give, browser, way, "large.png")
        assert seen(browser) == chosen
        said = after(browser, browsing.give, browser, way, "notes.png")
        assert said == "notes.png: it is not a picture that this browser can read."
        said = after(browser, browsing.give, browser, way, "", "https://example.com")
        assert said.startswith("That was no ")
        assert seen(browser) == chosen  # an error leaves the answer
        assert browser.get_log("browser") == []


def test_a_picture_of_the_camera(browser, page):
    dialog = "document.querySelector('#dialog')"
    with browsing.serve(page) as url:
        open_page(browser, url)
        browser.find_element("id", "camera").click()
        browsing.wait_for(browser, f"{dialog}.open")
        said = after(browser, browser.find_element("id", "snap").click)
        label, answers = seen(browser)
        assert label == "The picture: the camera"
        assert said.split(",")[0] == answers[0].split("\n")[0]
        tracks = "document.querySelector('#video').srcObject.getTracks()"
        ended = f"{tracks}.every((track) => track.readyState === 'ended')"
        assert browsing.wait_for(browser, f"!{dialog}.open && {ended}")
        assert browser.get_log("browser") == []


def test_nothing_is_cut_off(browser, page):
    command, size = "Emulation.setDeviceMetricsOverride", {"height": 800}
    try:
        with browsing.serve(page) as url:
            open_page(browser, url)
            choose(browser, page / "given" / "narrow.png")
            browser.execute_script("document.querySelector('details').open = true")
            for width in (320, 390, 1200):
                size |= {"width": width, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd(command, size)
                inside, outside = browser.execute_script(
                    "return [document.documentElement.scrollWidth, innerWidth]"
                )
                assert inside <= outside == width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_requests_to_elsewhere_are_blocked(browser, page):
    script = """
    const done = arguments[0];
    const type = "securitypolicyviolation";
    addEventListener(type, (event) => done(event.violatedDirective));
    fetch("http://localhost:9/").catch(() => {});
    """
    with browsing.serve(page) as url:
        open_page(browser, url)
        assert browser.execute_async_script(script) == "connect-src"
    browser.get_log("browser")  # says so, too


def test_a_browser_without_webassembly_is_told(browser, page):
    command, source = "Page.addScriptToEvaluateOnNewDocument", "delete WebAssembly"
    added = browser.execute_cdp_cmd(command, {"source": source})
    try:
        with browsing.serve(page) as url:
            assert "needs WebAssembly with SIMD" in open_page(browser, url)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_page_opened_as_a_file_says_how_to_serve_it(browser, page):
    said = open_page(browser, (page / "index.html").as_uri())
    assert "python -m http.server" in said


def test_damaged_weights_are_not_used(browser, page, tmp_path):
    shutil.copytree(page, tmp_path / "page")
    with (tmp_path / "page" / "model.bin").open("ab") as file:
        file.write(bytes(4))
    with browsing.serve(tmp_path / "page") as url:
        assert "model.bin does not fit model.json" in open_page(browser, url)


@pytest.mark.slow
def test_real_images(browser, real_zip, tmp_path):
    """200 val images: Keras' scores with the same weights, and those of the model."""
    export("tiny_imagenet_20", tmp_path / "page", "web")
    model, class_names = load_model("tiny_imagenet_20")
    images = []
    with zipfile.ZipFile(real_zip) as archive:
        members = [name for name in archive.namelist() if "/val/" in name]
        members = sorted(name for name in members if name.endswith(".JPEG"))[::5][:200]
        for index, member in enumerate(members):
            data = archive.read(member)
            images.append(decode_image(data))
            (tmp_path / "page" / f"{index}.jpg").write_bytes(data)
    with browsing.serve(tmp_path / "page") as url:
        open_page(browser, url)
        results = browsing.classify(browser, [f"{i}.jpg" for i in range(len(images))])
    scores = np.array([result["scores"] for result in results])
    pixels = np.stack(images).astype(np.float32)
    same = web.expected_scores(web.dequantized(model), pixels)
    full = web.expected_scores(model, pixels)
    assert scores.shape == (200, len(class_names))
    print(f"from the same weights {np.abs(scores - same).max():.2g}, from float32 "
          f"{np.abs(scores - full).max():.2g}, other answers "
          f"{(scores.argmax(1) != full.argmax(1)).sum()}")  # fmt: skip
    np.testing.assert_allclose(scores, same, atol=1e-4)
    np.testing.assert_allclose(scores, full, atol=0.01)
