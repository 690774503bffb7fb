"""A headless Chromium, driven by Playwright: real keys, real layout, no network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE_WIDTH_PX = 500
"""Windows below this width show a page as a phone does."""
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Page:
    """The file that was opened last, in a window of its own."""

    def __init__(self, chromium: Browser) -> None:
        self._chromium = chromium
        self.problems: list[str] = []
        """Console messages and uncaught exceptions of the page."""
        self.requests: list[str] = []
        """Addresses that the page requested; `data:` URLs are not among them."""

    def open(
        self,
        address: Path | str,
        width_px: int,
        height_px: int,
        scheme: Literal["light", "dark"] = "light",
    ) -> None:
        """Load a file or URL in a new window of that size; wait until everything is loaded."""
        for context in self._chromium.contexts:
            context.close()
        context = self._chromium.new_context(
            viewport={"width": width_px, "height": height_px},
            is_mobile=width_px < PHONE_WIDTH_PX,
            color_scheme=scheme,
        )
        self.problems, self.requests = [], []
        self._page = context.new_page()
        self._page.on("console", lambda message: self.problems.append(message.text))
        self._page.on("pageerror", lambda error: self.problems.append(error.message))
        self._page.on("request", lambda request: self.requests.append(request.url))
        self._page.goto(address if isinstance(address, str) else address.as_uri())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self._page.evaluate(expression)

    def press(self, key: str) -> None:
        """Press and release a key, as in `Tab` or `ArrowDown`."""
        self._page.keyboard.press(key)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a field."""
        self._page.set_input_files(selector, file)

    def fill(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        self._page.fill(selector, text)

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._page.click(selector)

    def wait_for(self, selector: str) -> None:
        """Wait until an element is there and visible."""
        self._page.wait_for_selector(selector, timeout=120_000)

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        self._page.screenshot(path=path, full_page=True)


@contextmanager
def browser() -> Iterator[Page]:
    """Start Chromium for the block."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        try:
            yield Page(chromium)
        finally:
            chromium.close()
