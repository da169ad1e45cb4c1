// Places of people on the txt2img and img2img pages: a drawing of the image in which each person's box can be moved and
// resized. The text field beside it holds the same as text, and is what the host reads.

(function() {
    "use strict";

    const WORDS = {
        left: (middle) => [0, 0, middle ? 1 / 3 : 0.5, 1],
        right: (middle) => [middle ? 2 / 3 : 0.5, 0, 1, 1],
        middle: () => [1 / 3, 0, 2 / 3, 1],
        top: (middle) => [0, 0, 1, middle ? 1 / 3 : 0.5],
        bottom: (middle) => [0, middle ? 2 / 3 : 0.5, 1, 1],
    };
    const HEIGHT = 180;
    const SMALLEST = 0.08;
    const NETWORKS = /^(lora|lyco|hypernet|hypernetwork|locon|loha|embedding|wildcard)$/i;
    const shown = {};

    const byId = (id) => gradioApp().getElementById(id);
    const fieldOf = (tab) => gradioApp().querySelector(`#celeb_basis_places_text_${tab} textarea, #celeb_basis_places_text_${tab} input`);

    function sides(tab) {
        const [width, height] = ["width", "height"].map((side) => Number(gradioApp().querySelector(`#${tab}_${side} input`)?.value) || 512);
        return {width, height};
    }

    function namesInPrompt(tab) {
        const prompt = gradioApp().querySelector(`#${tab}_prompt textarea`)?.value || "";
        const names = Array.from(prompt.matchAll(/<([^<>]+)>/g), (found) => found[1].split(":"));
        const people = names.filter((parts) => !(parts.length > 1 && NETWORKS.test(parts[0].trim())));
        return Array.from(new Set(people.map((parts) => parts[0].trim())));
    }

    function parse(text) {
        const people = text.split(/[;\n]+/).map((one) => one.match(/^\s*<?(.+?)>?\s*[:=]\s*([^:=]+?)\s*$/)).filter(Boolean);
        const words = people.map((found) => found[2].toLowerCase().replace("center", "middle"));
        const middle = words.includes("middle");
        const vertical = !words.includes("left") && !words.includes("right") && (words.includes("top") || words.includes("bottom"));
        return people.map(function(found, index) {
            const word = words[index];
            let box = WORDS[word]?.(middle);
            if (word === "middle" && vertical) box = [0, 1 / 3, 1, 2 / 3];
            if (!box) box = word.split(/[\s,]+/).map((one) => parseFloat(one) / (one.endsWith("%") ? 100 : 1));
            return {name: found[1], place: found[2], box};
        }).filter((one) => one.box.length === 4 && one.box.every((side) => side >= 0 && side <= 1));
    }

    function write(tab, people) {
        const field = fieldOf(tab);
        if (!field) return;
        field.value = people.map((one) => `${one.name}: ${one.place}`).join("; ");
        field.dispatchEvent(new Event("input", {bubbles: true}));
        draw(tab, true);
    }

    function asBox(box) {
        return box.map((side) => String(Math.round(side * 100) / 100)).join(" ");
    }

    function sideBySide(tab, words) {
        const names = namesInPrompt(tab).slice(0, 6);
        if (names.length === 2) return names.map((name, index) => ({name, place: words[index]}));
        if (names.length === 3) return names.map((name, index) => ({name, place: [words[0], "middle", words[1]][index]}));
        const across = words[0] === "left";
        return names.map(function(name, index) {
            const [start, end] = [index / names.length, (index + 1) / names.length];
            return {name, place: names.length === 1 ? words[0] : asBox(across ? [start, 0, end, 1] : [0, start, 1, end])};
        });
    }

    function button(label, title, action) {
        const made = document.createElement("button");
        Object.assign(made, {type: "button", textContent: label, title, className: "lg secondary gradio-button"});
        made.addEventListener("click", action);
        return made;
    }

    function build(tab, host) {
        const row = document.createElement("div");
        row.className = "celeb-basis-places-row";
        const hint = document.createElement("span");
        const place = (words) => function() {
            const people = sideBySide(tab, words);
            hint.textContent = people.length ? "" : "Name people in the prompt first, as in <ada> and <ben>.";
            if (people.length) write(tab, people);
        };
        row.append(
            button("Side by side", "The people of the prompt from left to right", place(["left", "right"])),
            button("One above the other", "The people of the prompt from top to bottom", place(["top", "bottom"])),
            button("Exchange", "Each takes another's place", function() {
                const people = parse(fieldOf(tab).value);
                write(tab, people.map((one, index) => ({...one, place: people[(index + 1) % people.length].place})));
            }),
            button("Clear", "No places", () => write(tab, [])),
            hint,
        );
        const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        picture.setAttribute("class", "celeb-basis-places-picture");
        picture.setAttribute("role", "img");
        picture.setAttribute("aria-label", "The places of the people in the image");
        host.replaceChildren(row, picture);
        fieldOf(tab)?.addEventListener("input", () => draw(tab, true));
    }

    function draw(tab, now) {
        const host = byId(`celeb_basis_places_canvas_${tab}`);
        const field = fieldOf(tab);
        if (!host || !field) return;
        if (!host.querySelector("svg")) build(tab, host);
        const {width, height} = sides(tab);
        const state = `${field.value}|${width}x${height}`;
        if (!now && shown[tab] === state) return;
        shown[tab] = state;
        const picture = host.querySelector("svg");
        const across = HEIGHT * width / height;
        picture.setAttribute("viewBox", `0 0 ${across} ${HEIGHT}`);
        picture.style.width = across + "px";
        const people = parse(field.value);
        picture.replaceChildren(...people.flatMap((one, index) => boxOf(tab, picture, people, index, across)));
        picture.style.display = people.length ? "" : "none";
    }

    function element(kind, attributes) {
        const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
        for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
        return made;
    }

    function boxOf(tab, picture, people, index, across) {
        const [left, top, right, bottom] = people[index].box;
        const color = `hsl(${(index * 137 + 210) % 360} 65% 50%)`;
        const [x, y] = [left * across, top * HEIGHT];
        const [wide, high] = [(right - left) * across, (bottom - top) * HEIGHT];
        const rect = element("rect", {x: x + 1, y: y + 1, width: Math.max(0, wide - 2), height: Math.max(0, high - 2), rx: 4, fill: color, "fill-opacity": 0.25, stroke: color});
        rect.style.cursor = "move";
        const label = element("text", {x: x + wide / 2, y: y + high / 2 + 5, "text-anchor": "middle", fill: "currentColor"});
        label.style.pointerEvents = "none";
        label.textContent = people[index].name;
        const corner = element("rect", {x: x + wide - 11, y: y + high - 11, width: 10, height: 10, fill: color});
        corner.style.cursor = "nwse-resize";
        drag(rect, picture, across, function(dx, dy) {
            const moveX = Math.min(Math.max(dx, -left), 1 - right);
            const moveY = Math.min(Math.max(dy, -top), 1 - bottom);
            return [left + moveX, top + moveY, right + moveX, bottom + moveY];
        }, tab, people, index);
        drag(corner, picture, across, (dx, dy) => [
            left, top, Math.min(1, Math.max(left + SMALLEST, right + dx)), Math.min(1, Math.max(top + SMALLEST, bottom + dy)),
        ], tab, people, index);
        return [rect, label, corner];
    }

    // The boxes are drawn again while one is dragged, so the picture itself hears the pointer.
    function drag(handle, picture, across, moved, tab, people, index) {
        handle.addEventListener("pointerdown", function(start) {
            start.preventDefault();
            const scale = picture.getBoundingClientRect().width / across || 1;
            const follow = function(event) {
                const box = moved((event.clientX - start.clientX) / scale / across, (event.clientY - start.clientY) / scale / HEIGHT);
                write(tab, people.map((one, at) => (at === index ? {...one, place: asBox(box)} : {...one, place: WORDS[one.place.toLowerCase()] ? asBox(one.box) : one.place})));
            };
            const end = function() {
                window.removeEventListener("pointermove", follow);
                window.removeEventListener("pointerup", end);
            };
            window.addEventListener("pointermove", follow);
            window.addEventListener("pointerup", end);
        });
    }

    const drawAll = () => ["txt2img", "img2img"].forEach((tab) => draw(tab, false));
    onUiLoaded(drawAll);
    onAfterUiUpdate(drawAll);
})();
