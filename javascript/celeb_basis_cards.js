// A click on a card of the page "Celeb Basis" puts the word where the caret was, in the prompt that was last typed in.

function celebBasisInsertWord(textarea, word) {
    const before = textarea.value.slice(0, textarea.selectionStart);
    const after = textarea.value.slice(textarea.selectionEnd);
    const left = before === "" || /[\s(\[{:|]$/.test(before) ? "" : " ";
    const right = after === "" || /^[\s,.;:!?)\]}|']/.test(after) ? "" : " ";
    textarea.value = before + left + word + right + after;
    const caret = before.length + left.length + word.length;
    textarea.setSelectionRange(caret, caret);
    updateInput(textarea); // the host's own: tells the page of the change
}

function celebBasisCardClicked(tabname, word) {
    const prompt = gradioApp().querySelector(`#${tabname}_prompt > label > textarea`);
    const textarea = activePromptTextarea[tabname] || prompt;
    if (textarea) {
        celebBasisInsertWord(textarea, word);
    }
}
