// The parts of the page that gradio has no components for: placeholder tokens inserted into prompts at the caret, completion
// of "<" with the names of the library, clicks on faces and cards, and a timer that fetches the progress of jobs and reloads
// the host's cards when the library has changed.

(function() {
    "use strict";

    const PROMPTS = ["txt2img_prompt", "txt2img_neg_prompt", "img2img_prompt", "img2img_neg_prompt"];

    // The prompts of ADetailer, an extension that inpaints faces.
    const OTHER_PROMPTS = "[id*=_adetailer_ad_prompt] textarea, [id*=_adetailer_ad_negative_prompt] textarea";

    const byId = (id) => gradioApp().getElementById(id);

    // With a kind of input, such as "insertReplacementText", other completions check the text again and close.
    function notifyChanged(field, kind) {
        field.dispatchEvent(kind ? new InputEvent("input", {bubbles: true, inputType: kind}) : new Event("input", {bubbles: true}));
    }

    function fieldOf(id) {
        return gradioApp().querySelector(`#${id} textarea, #${id} input`);
    }

    // Opens a tab of the host by the id of its content. The tabs' buttons are in the order of their contents.
    function openTab(id) {
        const contents = Array.from(gradioApp().querySelectorAll("#tabs > .tabitem"));
        const buttons = gradioApp().querySelectorAll("#tabs > .tab-nav > button");
        const index = contents.findIndex((one) => one.id === "tab_" + id);
        if (index >= 0 && buttons[index]) buttons[index].click();
    }

    // Inserting placeholder tokens into prompts

    function insertAtCaret(field, token) {
        const start = field.selectionStart ?? field.value.length;
        const end = field.selectionEnd ?? start;
        const before = field.value.slice(0, start);
        const after = field.value.slice(end);
        const left = before && !/[\s(\[{|:]$/.test(before) ? " " : "";
        const right = after && !/^[\s,.)\]}|:;!?]/.test(after) ? " " : "";
        field.value = before + left + token + right + after;
        field.selectionStart = field.selectionEnd = (before + left + token).length;
        notifyChanged(field);
    }

    function sendToken(token, tab) {
        const field = fieldOf(tab + "_prompt");
        if (!field) return;
        if (!field.value.trim()) insertAtCaret(field, "a photo of " + token);
        else if (!field.value.includes(token)) insertAtCaret(field, token);
        openTab(tab);
        field.focus();
    }

    // A click on a card among the Extra Networks. The host knows which prompt was last typed in.
    window.celebBasisCardClicked = function(tab, token) {
        const field = activePromptTextarea[tab] || fieldOf(tab + "_prompt");
        if (field) insertAtCaret(field, token);
    };

    // Clicks on the page's own HTML

    let count = 0;

    // A hidden text receives a number, a colon and the value: gradio raises no event for a text that is the same as before.
    function put(field, value) {
        field.value = ++count + ":" + value;
        notifyChanged(field);
        return field.value;
    }

    function pick(element) {
        const field = fieldOf(element.dataset.pick);
        if (field) put(field, element.dataset.value);
    }

    document.addEventListener("click", function(event) {
        const target = event.composedPath ? event.composedPath()[0] : event.target;
        if (!(target instanceof Element)) return;
        if (target.closest("#celeb_basis_start")) startPressed = performance.now();
        const element = target.closest("[data-pick], [data-word], [data-go]");
        if (!element) return;
        if (element.dataset.pick) pick(element);
        else if (element.dataset.word) sendToken(element.dataset.word, element.dataset.to || "txt2img");
        else openTab(element.dataset.go);
    });

    // Progress: fetched every second while a job is running, every five seconds otherwise, never in a background tab

    let ticks = 0;

    function fetchProgress(all) {
        if (document.hidden || upload) return;
        gradioApp().querySelectorAll("[data-poll]").forEach(function(element) {
            if (element.offsetParent === null) return;
            if (all || element.dataset.active === "1") byId(element.dataset.poll)?.click();
        });
        if (!all) return;
        gradioApp().querySelectorAll("[data-unknown]").forEach(function(element) {
            if (element.offsetParent !== null) byId(element.dataset.unknown)?.click();
        });
    }

    // Where the page has one column, as on a phone, a run stands far below the form: it is scrolled to when it begins.
    let startPressed = -Infinity;

    function showRun() {
        if (performance.now() - startPressed > 10000) return;
        const run = gradioApp().querySelector("[data-poll=celeb_basis_learn_poll][data-active='1']");
        if (!run || run.offsetParent === null) return;
        startPressed = -Infinity;
        if (run.getBoundingClientRect().top > window.innerHeight - 60) run.scrollIntoView({block: "center"});
    }

    // Gradio raises no event for the sub-tab that is open when the page is first seen, or seen again.
    function tabChanged() {
        if (upload) return;
        if (byId("celeb_basis_start")?.offsetParent) byId("celeb_basis_learn_opened")?.click();
        fetchProgress(true);
    }

    // Uploads. Gradio 3 forgets a file that is being uploaded as soon as any other response reaches the page. So nothing is
    // requested during an upload, and a file that is lost all the same (other extensions send requests, too) is uploaded again.

    const FILES = "#celeb_basis_photos, #celeb_basis_evaluate_photos, #celeb_basis_import_files, #celeb_basis_names_file";
    const MAX_TRIES = 3;
    let upload = null;
    let tries = 0;

    function watchUploads() {
        for (const kind of ["change", "drop"]) {
            document.addEventListener(kind, function(event) {
                const target = event.composedPath ? event.composedPath()[0] : event.target;
                const zone = target instanceof Element ? target.closest(FILES) : null;
                const files = Array.from((kind === "drop" ? event.dataTransfer : target)?.files || []);
                if (!zone || !files.length) return;
                upload = {zone, files, tries, began: performance.now(), ended: 0};
                tries = 0;
            }, true);
        }
        new PerformanceObserver(function(seen) {
            for (const entry of seen.getEntries()) {
                if (upload && entry.startTime >= upload.began && /\/upload(\?|$)/.test(entry.name)) upload.ended = performance.now();
            }
        }).observe({type: "resource"});
    }

    function checkUpload() {
        if (!upload) return;
        const now = performance.now();
        const pending = upload.zone.querySelector(".generating");
        if (!pending && (upload.ended || now - upload.began > 5000)) upload = null;
        else if (pending && upload.ended && now - upload.ended > 2000) uploadAgain(upload);
        else if (now - upload.began > 600000) upload = null;
    }

    function uploadAgain(lost) {
        upload = null;
        if (lost.tries >= MAX_TRIES) return;
        lost.zone.querySelector("button[aria-label=Clear]")?.click();
        setTimeout(function() {
            const field = lost.zone.querySelector("input[type=file]");
            if (!field) return;
            const data = new DataTransfer();
            lost.files.forEach((file) => data.items.add(file));
            tries = lost.tries + 1;
            field.files = data.files;
            field.dispatchEvent(new Event("change", {bubbles: true}));
        }, 300);
    }

    // The host creates its cards when its first page is loaded and when they are refreshed by hand; new people get theirs at
    // once, from an event of our own, and so do those who came while no page was open, once the host's cards are there. The
    // host's filter and order are applied when the new cards are there.
    const TABS = ["txt2img", "img2img"];
    const known = new Set();
    const expected = new Set();

    function watchCards() {
        TABS.forEach(function(tab) {
            const cards = byId(tab + "_celeb_basis_cards_html");
            if (cards) new MutationObserver(() => cardsCame(tab)).observe(cards, {childList: true, subtree: true});
        });
        awaitHostsCards(3000);
    }

    let opening = null;

    // Gradio connects its buttons after the host has called us, and the host's cards come from a queue.
    function awaitHostsCards(milliseconds) {
        clearTimeout(opening);
        opening = setTimeout(function() {
            opening = null;
            clickForCards("celeb_basis_newer_cards");
        }, milliseconds);
    }

    function cardsCame(tab) {
        if (expected.delete(tab)) arrangeCards(tab);
        if (opening !== null) awaitHostsCards(1000);
    }

    function clickForCards(id) {
        const button = byId(id);
        if (!button) return;
        TABS.forEach((tab) => expected.add(tab));
        button.click();
    }

    function arrangeCards(tab) {
        if (typeof applyExtraNetworkFilter === "function") applyExtraNetworkFilter(tab + "_celeb_basis");
        if (typeof setupAllResizeHandles === "function") setupAllResizeHandles();
    }

    function refreshCards() {
        const added = Array.from(gradioApp().querySelectorAll("[data-changed]"), (one) => one.dataset.changed).filter((key) => !known.has(key));
        added.forEach((key) => known.add(key));
        if (!added.length) return;
        refreshFaces();
        clickForCards("celeb_basis_refresh_cards");
    }

    // The names in the boxes "Paint faces again with", where ADetailer is installed.
    function refreshFaces() {
        gradioApp().querySelectorAll("[id$=_celeb_basis_faces_refresh]").forEach((button) => button.click());
    }

    // Completion of "<"

    const list = {box: null, field: null, names: [], active: 0, start: 0, mover: null};
    let asked = null;
    let wait = null;

    function closeList() {
        if (!list.box) return;
        clearInterval(list.mover);
        list.field.removeAttribute("aria-activedescendant");
        list.field.removeAttribute("aria-controls");
        list.box.remove();
        list.box = null;
    }

    // The text between "<" and the caret; null where no name is being typed. A colon belongs to the host's own syntax.
    function typed(field) {
        if (field.selectionStart !== field.selectionEnd) return null;
        const match = /<([^<>:\n]{0,64})$/.exec(field.value.slice(0, field.selectionStart));
        return match ? match[1] : null;
    }

    function ask(field) {
        clearTimeout(wait);
        const query = typed(field);
        const source = fieldOf("celeb_basis_query");
        if (query === null || !source) {
            asked = null;
            closeList();
            return;
        }
        wait = setTimeout(function() {
            asked = {field, query, key: put(source, query)};
        }, 80);
    }

    function offer() {
        const answer = byId("celeb_basis_names")?.querySelector("[data-query]");
        if (!asked || !answer || answer.dataset.query !== asked.key) return;
        if (typed(asked.field) !== asked.query || document.activeElement !== asked.field) return;
        showList(asked.field, asked.query, Array.from(answer.querySelectorAll("i"), (one) => one.textContent));
    }

    function showList(field, query, names) {
        const before = list.box ? list.names[list.active] : null;
        closeList();
        if (!names.length) return;
        Object.assign(list, {field, names, active: Math.max(0, names.indexOf(before)), start: field.selectionStart - query.length - 1});
        list.box = document.createElement("ul");
        list.box.className = "celeb-basis-completion";
        list.box.id = "celeb_basis_completion";
        list.box.setAttribute("role", "listbox");
        list.box.setAttribute("aria-label", "People");
        names.forEach(function(name, index) {
            const item = document.createElement("li");
            item.id = "celeb_basis_completion_" + index;
            item.setAttribute("role", "option");
            item.textContent = "<" + name + ">";
            item.addEventListener("mousedown", function(event) {
                event.preventDefault(); // the caret stays in the prompt
                list.active = index;
                take();
            });
            list.box.appendChild(item);
        });
        document.body.appendChild(list.box);
        placeList();
        list.mover = setInterval(placeList, 100); // another completion's list may open or close
        field.setAttribute("aria-controls", list.box.id);
        mark();
    }

    // The list of the tag-autocomplete extension while it is open. It completes LoRAs and embeddings after "<", too.
    function otherList() {
        const lists = Array.from(gradioApp().querySelectorAll(".autocompleteParent"));
        const open = lists.find((one) => one.offsetParent !== null);
        return open ? open.querySelector(".autocompleteResults") || open : null;
    }

    // Places the list at the caret, or beside another completion's list, or below that one if the page is narrow.
    function placeList() {
        const place = caretPlace(list.field, list.start);
        const other = otherList()?.getBoundingClientRect();
        if (other) {
            const right = other.right + 6;
            const fits = right + list.box.offsetWidth <= document.documentElement.clientWidth;
            place.left = window.scrollX + (fits ? right : other.left);
            place.top = window.scrollY + (fits ? other.top : other.bottom + 6);
        }
        list.box.style.left = place.left + "px";
        list.box.style.top = place.top + "px";
    }

    function mark() {
        Array.from(list.box.children).forEach(function(item, index) {
            item.setAttribute("aria-selected", String(index === list.active));
            if (index === list.active) item.scrollIntoView({block: "nearest"});
        });
        list.field.setAttribute("aria-activedescendant", "celeb_basis_completion_" + list.active);
    }

    function take() {
        const {field, start} = list;
        const end = field.selectionStart;
        const token = "<" + list.names[list.active] + ">";
        const rest = field.value.slice(end).replace(/^>/, "");
        closeList();
        asked = null;
        field.value = field.value.slice(0, start) + token + rest;
        field.selectionStart = field.selectionEnd = start + token.length;
        notifyChanged(field, "insertReplacementText");
        closeOther(field, field.value, 8);
    }

    // The other list completes the first word of a prompt that it sees for the first time. A second event closes it.
    function closeOther(field, text, times) {
        if (!times || field.value !== text) return;
        if (otherList()) notifyChanged(field, "insertReplacementText");
        setTimeout(() => closeOther(field, text, times - 1), 250);
    }

    // The position of a character of a text field on the page, measured in a copy of the field's text.
    function caretPlace(field, position) {
        const copy = document.createElement("div");
        const style = getComputedStyle(field);
        for (const name of ["font", "letterSpacing", "lineHeight", "padding", "border", "boxSizing", "textIndent"]) {
            copy.style[name] = style[name];
        }
        Object.assign(copy.style, {
            position: "absolute", visibility: "hidden", whiteSpace: "pre-wrap", overflowWrap: "break-word", width: field.offsetWidth + "px",
        });
        copy.textContent = field.value.slice(0, position);
        const dot = document.createElement("span");
        dot.textContent = "<";
        copy.appendChild(dot);
        document.body.appendChild(copy);
        const box = field.getBoundingClientRect();
        const left = box.left + window.scrollX + dot.offsetLeft;
        const top = box.top + window.scrollY + dot.offsetTop - field.scrollTop + dot.offsetHeight + 4;
        copy.remove();
        return {left: Math.min(left, window.scrollX + document.documentElement.clientWidth - 220), top};
    }

    // Handles keys only while our list is open, and before other listeners of the field (tag-autocomplete has one, too).
    function onKey(event) {
        if (!list.box || list.field !== event.target || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
        const end = event.key === "ArrowDown" ? list.names.length - 1 : event.key === "ArrowUp" ? 0 : -1;
        if (list.active === end && otherList()) {
            closeList(); // the other list receives the key
            return;
        }
        if (event.key === "ArrowDown") list.active = (list.active + 1) % list.names.length;
        else if (event.key === "ArrowUp") list.active = (list.active + list.names.length - 1) % list.names.length;
        else if (event.key === "Escape") closeList();
        else if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey) take();
        else return;
        event.preventDefault();
        event.stopImmediatePropagation();
        if (list.box) mark();
    }

    function watchPrompt(field) {
        if (!field || field.dataset.celebBasis) return;
        field.dataset.celebBasis = "1";
        field.addEventListener("input", (event) => event.isTrusted && ask(field));
        field.addEventListener("click", () => list.box && ask(field));
        field.addEventListener("blur", closeList);
    }

    // The name on the Learn tab is checked when the user pauses while typing.
    function watchName() {
        const field = fieldOf("celeb_basis_name");
        let pause = null;
        function check() {
            if (upload) pause = setTimeout(check, 250);
            else byId("celeb_basis_check_name")?.click();
        }
        field?.addEventListener("input", function() {
            clearTimeout(pause);
            pause = setTimeout(check, 250);
        });
    }

    window.addEventListener("keydown", onKey, true);

    onUiLoaded(function() {
        PROMPTS.map(fieldOf).forEach(watchPrompt);
        gradioApp().querySelectorAll(OTHER_PROMPTS).forEach(watchPrompt);
        watchName();
        watchUploads();
        watchCards();
        const answers = byId("celeb_basis_names");
        if (answers) new MutationObserver(offer).observe(answers, {childList: true, subtree: true});
        onUiTabChange(tabChanged);
        setTimeout(refreshFaces, 1000);
        setInterval(function() {
            checkUpload();
            fetchProgress(++ticks % 5 === 0);
            showRun();
            refreshCards();
        }, 1000);
    });
})();
