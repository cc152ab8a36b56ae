for (const button of document.querySelectorAll(".command button")) {
  const code = button.parentElement.querySelector("code");
  const select = () => getSelection().selectAllChildren(code);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      select();
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
