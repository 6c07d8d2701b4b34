(() => {
	const luminance = ([r, g, b]) => {
		const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * x + 0.7152 * y + 0.0722 * z;
	};
	const color = (text) => {
		const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
		return { rgb: [r, g, b], a };
	};
	// The nearest background that is not transparent; colors are opaque here.
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = color(getComputedStyle(e).backgroundColor);
			if (c.a === 1) return c.rgb;
			if (c.a !== 0) throw new Error("half transparent: " + e.className);
		}
		return [255, 255, 255];
	};
	const contrast = (e) => {
		const [x, y] = [color(getComputedStyle(e).color).rgb, behind(e)].map(luminance);
		return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
	};
	const describe = (e) => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 30)}`;

	const all = [...document.body.querySelectorAll("*")];
	const withText = all.filter((e) => [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim()));
	const levels = all.filter((e) => /^H\d$/.test(e.tagName)).map((e) => Number(e.tagName[1]));
	const page = document.documentElement;
	return {
		Title: document.title,
		Text: document.body.innerText.replace(/\s+/g, " "),
		ScrollWidth: page.scrollWidth,
		ClientWidth: page.clientWidth,
		Outside: all.filter((e) => e.getBoundingClientRect().right > page.clientWidth + 0.5 || e.getBoundingClientRect().left < -0.5).map(describe),
		NarrowestName: Math.min(...all.filter((e) => e.matches(".failures tbody th")).map((e) => e.clientWidth)),
		LowContrast: withText.filter((e) => contrast(e) < 4.5).map((e) => `${contrast(e).toFixed(2)} ${describe(e)}`),
		Texts: withText.length,
		Background: getComputedStyle(document.body).backgroundColor,
		Headings: levels.filter((l) => l === 1).length,
		SkippedLevels: levels.filter((l, i) => i > 0 && l > levels[i - 1] + 1).map(String),
		UnscopedHeaders: document.querySelectorAll("th:not([scope])").length,
		Scripts: document.querySelectorAll("script, [onclick], [onerror], [onmouseover]").length,
		Images: document.querySelectorAll("img, iframe, object, embed").length,
		Foreign: document.querySelectorAll("[src], link:not([href^='data:'])").length,
	};
})()
